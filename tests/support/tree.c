/*
 * A program of many processes, for the tests of pausing: each of them says at each step that it goes on.
 *
 *     tree LOG UNTIL KIND[=N]...
 *
 * Lines are those of beat.py: NANOSECONDS TAG PID beat STEP; TAG is the kind, the first process's `leader`. Kinds:
 *
 *     worker   a child                         setsid   a child in a session of its own
 *     renamed  a child called otherwise        thread   a thread of the leader
 *     daemon   forked twice, with a session of its own, its parent gone
 *     bare     the same with an empty environment, started once the file UNTIL.bare exists
 *     forker   a child that forks short-lived children without a pause
 *     runner   each generation forks the next and ends: never the same pid for longer than 200 ms
 *
 * All of them end once the file UNTIL exists, or the log does not any more: nothing outlives a test.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *log_path, *until;
static char **words;

static int over(void) { return access(until, F_OK) == 0 || access(log_path, F_OK) != 0; }

static void say(const char *tag, int step) {
    struct timespec t;
    char line[256];
    clock_gettime(CLOCK_MONOTONIC, &t);
    int n = snprintf(line, sizeof line, "%lld %s %d beat %d\n", (long long)t.tv_sec * 1000000000 + t.tv_nsec, tag,
                     (int)getpid(), step);
    int fd = open(log_path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0 || write(fd, line, n) != n)
        _exit(99);
    close(fd);
}

static void beat(const char *tag) {
    for (int step = 1; !over(); step++) {
        say(tag, step);
        usleep(20000);
    }
}

static void *thread(void *_) {
    beat("thread");
    return NULL;
}

/* Generations: each says one step and leaves the next one behind. */
static void run_away(const char *tag) {
    for (int step = 1; !over(); step++) {
        say(tag, step);
        usleep(200000);
        if (fork())
            _exit(0);
    }
}

static void fork_on(const char *tag) {
    for (int step = 1; !over(); step++) {
        if (step % 4 == 1)
            say(tag, step);
        pid_t child = fork();
        if (!child) {
            usleep(5000);
            _exit(0);
        }
        usleep(10000);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
}

static void start(const char *kind) {
    if (!strcmp(kind, "thread")) {
        pthread_t id;
        if (pthread_create(&id, NULL, thread, NULL))
            _exit(98);
        return;
    }
    if (fork())
        return;
    if (!strcmp(kind, "setsid") || !strcmp(kind, "daemon") || !strcmp(kind, "bare"))
        setsid();
    if (!strcmp(kind, "daemon") && fork())
        _exit(0);
    if (!strcmp(kind, "bare")) {
        if (fork())
            _exit(0);
        char *const empty[] = {NULL}, *const argv[] = {words[0], words[1], words[2], "only-bare", NULL};
        for (int fd = 0; fd < 64; fd++)
            close(fd);
        execve("/proc/self/exe", argv, empty);
        _exit(97);
    }
    if (!strcmp(kind, "renamed")) {
        prctl(PR_SET_NAME, "sshd");
        for (char **word = words; *word; word++)
            memset(*word, 'x', strlen(*word));
    }
    if (!strcmp(kind, "forker"))
        fork_on(kind);
    else if (!strcmp(kind, "runner"))
        run_away(kind);
    else
        beat(kind);
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 97;
    log_path = strdup(argv[1]), until = strdup(argv[2]), words = argv;
    signal(SIGCHLD, SIG_DFL);
    if (argc > 3 && !strcmp(argv[3], "only-bare")) {
        beat("bare");
        return 0;
    }
    int bare = 0;
    char path[4096];
    snprintf(path, sizeof path, "%s.bare", until);
    for (int i = 3; i < argc; i++) {
        char kind[64];
        snprintf(kind, sizeof kind, "%s", argv[i]);
        char *count = strchr(kind, '=');
        if (count)
            *count++ = 0;
        if (!strcmp(kind, "bare")) {
            bare = 1;
            continue;
        }
        for (int n = count ? atoi(count) : 1; n > 0; n--)
            start(kind);
    }
    for (int step = 1; !over(); step++) {
        say("leader", step);
        usleep(20000);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        if (bare && access(path, F_OK) == 0) {
            bare = 0;
            start("bare");
        }
    }
    return 7;
}

/*
 * The program of the crowd tests: says when it started and ended, and takes GPU memory between.
 *
 *     work LOG TAG [for=MS] [take=BYTES] [after=MS] [alloc=FOLDER] [until=FILE] [exit=N]
 *
 * Each line is one write() to a file opened O_APPEND, so lines of many processes never mix:
 *
 *     NANOSECONDS start|end tag=TAG job=N devices=0,1 uuids=A,B granted=BYTES pid=N
 *
 * The clock is CLOCK_MONOTONIC, read first of all and last of all: the true life is a little longer than the logged one,
 * so two logged lives that overlap did overlap. A variable that is not set is written as "-". Memory is taken as
 * simulated and stand-in GPUs want it: a byte count in FOLDER/<index>/<pid>, FOLDER being $GPURUN_SIM_DIR unless given.
 * SIGTERM ends it early, with its line, by that signal.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t asked_to_end;
static const char *log_path, *tag;

static void on_term(int signal) { asked_to_end = signal; }

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value ? value : "-";
}

static void say(const char *what, int64_t at) {
    char line[4096];
    int n = snprintf(line, sizeof line, "%lld %s tag=%s job=%s devices=%s uuids=%s granted=%s pid=%d\n", (long long)at,
                     what, tag, variable("GPURUN_JOB"), variable("CUDA_VISIBLE_DEVICES"), variable("GPURUN_GPU_UUIDS"),
                     variable("GPURUN_GRANTED"), (int)getpid());
    int fd = open(log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, line, n) != n) {
        perror(log_path);
        _exit(99);
    }
    close(fd);
}

/* Sleep until `deadline` or a signal. */
static void sleep_until(int64_t deadline) {
    struct timespec t = {deadline / 1000000000, deadline % 1000000000};
    while (!asked_to_end && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

/* Write or remove the byte count on every GPU of the grant. */
static void memory(const char *folder, const char *bytes) {
    char devices[512], path[4096];
    snprintf(devices, sizeof devices, "%s", variable("CUDA_VISIBLE_DEVICES"));
    for (char *rest, *index = strtok_r(devices, ",", &rest); index; index = strtok_r(NULL, ",", &rest)) {
        snprintf(path, sizeof path, "%s/%s/%d", folder, index, (int)getpid());
        if (!bytes) {
            unlink(path);
            continue;
        }
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (fd < 0 || write(fd, bytes, strlen(bytes)) < 0) {
            perror(path);
            _exit(98);
        }
        close(fd);
    }
}

int main(int argc, char **argv) {
    int64_t start = now_ns(), for_ms = 0, after_ms = 0;
    const char *take = NULL, *folder = getenv("GPURUN_SIM_DIR"), *until = NULL;
    int status = 0;
    struct sigaction action = {.sa_handler = on_term};

    if (argc < 3) {
        fprintf(stderr, "usage: work LOG TAG [for=MS] [take=BYTES] [after=MS] [alloc=FOLDER] [until=FILE] [exit=N]\n");
        return 97;
    }
    log_path = argv[1], tag = argv[2];
    sigaction(SIGTERM, &action, NULL);
    say("start", start);
    for (int i = 3; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value)
            return 97;
        *value++ = 0;
        if (!strcmp(argv[i], "for"))
            for_ms = atoll(value);
        else if (!strcmp(argv[i], "after"))
            after_ms = atoll(value);
        else if (!strcmp(argv[i], "take"))
            take = value;
        else if (!strcmp(argv[i], "alloc"))
            folder = value;
        else if (!strcmp(argv[i], "until"))
            until = value;
        else if (!strcmp(argv[i], "exit"))
            status = atoi(value);
        else
            return 97;
    }
    if (take && !folder) {
        fprintf(stderr, "work: no folder to take memory in\n");
        return 97;
    }
    sleep_until(start + after_ms * 1000000);
    if (take && !asked_to_end)
        memory(folder, take);
    sleep_until(start + for_ms * 1000000);
    while (until && !asked_to_end && access(until, F_OK) != 0)
        sleep_until(now_ns() + 5000000);
    if (take)
        memory(folder, NULL);
    say("end", now_ns());
    if (asked_to_end) {
        signal(SIGTERM, SIG_DFL);
        raise(SIGTERM);
    }
    return status;
}

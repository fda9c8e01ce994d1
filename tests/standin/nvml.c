/* A stand-in for libnvidia-ml.so.1: GPUs that exist as text.
 *
 * Everything it tells stands in two places beside the library file itself (found with dladdr, so that it works
 * in processes whose environment was built anew), read again at every call:
 *
 *   world.txt             one fact a line, see below
 *   alloc/INDEX/PID       the bytes that a living process PID holds on GPU INDEX ("?": it holds some, the driver
 *                         does not say how much); PID.g: a process that draws, PID.m: one that computes through MPS.
 *                         MIG instance N of GPU INDEX is the folder INDEX:N. Dead processes and zombies count nothing.
 *
 *   driver VERSION        nvml VERSION        cuda NUMBER
 *   session NUMBER        a number other than at nvmlInit: every call says "uninitialized" until the next nvmlInit
 *   wide 1                process lists v3 with the 32-byte entries of drivers 535.43 to 535.86
 *   gpu INDEX KEY VALUE   KEY: uuid name total reserved free utilization memory_utilization compute_mode bus numa mig
 *                         serial temperature power power_limit fan ecc clock ...; absent or "?": not supported
 *   instance INDEX:N KEY VALUE     uuid name total reserved gi ci; exists if it has a uuid
 *   process WHERE PID BYTES KIND   BYTES a number or ?, KIND compute, graphics or mps; WHERE INDEX or INDEX:N
 *   topology A B LEVEL    nvlink A B COUNT    (B may be "switch")
 *   error FUNCTION WHERE CODE      WHERE INDEX, INDEX:N or *; FUNCTION with or without its _vN
 *   hang FUNCTION WHERE SECONDS    ends early when the line goes
 *   xid INDEX CODE        an event, delivered once to each event set, in order
 *
 * -DOLD_DRIVER=1 leaves out what came after R470 (_v3 lists, memory v2), =2 also what came after R440 (_v2 lists, MIG).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef OLD_DRIVER
#define OLD_DRIVER 0
#endif

typedef int nvmlReturn_t;
typedef struct device *nvmlDevice_t;
typedef unsigned long long bytes_t;

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, TIMED_OUT = 10, ARGUMENT_VERSION_MISMATCH = 25, UNKNOWN = 999,
};
#define UNKNOWN_BYTES (~0ULL)
#define MAX_LINES 4096
#define MAX_PROCESSES 1024

typedef struct { pid_t pid; bytes_t bytes; char kind; /* c, g, m */ } process_t;
typedef struct { char *text; char *lines[MAX_LINES]; int count; } world_t;

static int initialized, session;

/* Where we are, and reading it */

static const char *beside(char *buffer, const char *name)
{
    Dl_info info;
    if (!dladdr((void *)beside, &info)) return NULL;
    const char *slash = strrchr(info.dli_fname, '/');
    int length = slash ? (int)(slash - info.dli_fname) : 1;
    snprintf(buffer, PATH_MAX, "%.*s/%s", length, slash ? info.dli_fname : ".", name);
    return buffer;
}

static void forget(world_t *world) { free(world->text); }

static int read_world(world_t *world)
{
    char path[PATH_MAX];
    struct stat stat;
    world->text = NULL;
    world->count = 0;
    int file = open(beside(path, "world.txt"), O_RDONLY | O_CLOEXEC);
    if (file < 0) return DRIVER_NOT_LOADED;
    if (fstat(file, &stat) || !(world->text = malloc(stat.st_size + 1))) { close(file); return UNKNOWN; }
    ssize_t got = read(file, world->text, stat.st_size);
    close(file);
    world->text[got < 0 ? 0 : got] = 0;
    char *rest = world->text, *line;
    while ((line = strsep(&rest, "\n")) && world->count < MAX_LINES)
        if (*line) world->lines[world->count++] = line;
    return OK;
}

/* What follows PREFIX and a blank in the first line that has it at or after *from; NULL if none. */
static const char *next(world_t *world, int *from, const char *prefix)
{
    size_t length = strlen(prefix);
    while (*from < world->count) {
        const char *line = world->lines[(*from)++];
        if (!strncmp(line, prefix, length) && line[length] == ' ') return line + length + 1;
    }
    return NULL;
}

static const char *fact(world_t *world, const char *prefix)
{
    int from = 0;
    return next(world, &from, prefix);
}

/* Devices: the handle is 0x10000 + 0x100 * GPU + (0, or MIG instance + 1) */

static int gpu_of(nvmlDevice_t device) { return ((long)device - 0x10000) / 0x100; }
static int instance_of(nvmlDevice_t device) { return ((long)device & 0xff) - 1; }
static nvmlDevice_t handle(int gpu, int instance) { return (nvmlDevice_t)(long)(0x10000 + 0x100 * gpu + instance + 1); }

static const char *where(char *buffer, nvmlDevice_t device)
{
    if (instance_of(device) < 0) sprintf(buffer, "%d", gpu_of(device));
    else sprintf(buffer, "%d:%d", gpu_of(device), instance_of(device));
    return buffer;
}

static const char *value(world_t *world, nvmlDevice_t device, const char *key)
{
    char place[32], prefix[128];
    const char *what = instance_of(device) < 0 ? "gpu" : "instance";
    snprintf(prefix, sizeof prefix, "%s %s %s", what, where(place, device), key);
    return fact(world, prefix);
}

static int number(world_t *world, nvmlDevice_t device, const char *key, bytes_t *result)
{
    const char *text = value(world, device, key);
    if (!text || *text == '?') return NOT_SUPPORTED;
    *result = strtoull(text, NULL, 0);
    return OK;
}

static int exists(world_t *world, nvmlDevice_t device)
{
    return (long)device >= 0x10000 && (long)device < 0x20000 && value(world, device, "uuid") != NULL;
}

static int count(world_t *world)
{
    int found = 0;
    while (exists(world, handle(found, -1))) found++;
    return found;
}

/* What every call does first: hang, fail, or go on */

static int same_function(const char *line, const char *function, const char *place, const char **argument)
{
    char name[128], target[32];
    int end = 0;
    if (sscanf(line, "%127s %31s %n", name, target, &end) != 2 || !end) return 0;
    size_t length = strlen(name);
    int named = !strcmp(name, "*") || (!strncmp(function, name, length)
                                       && (!function[length] || !strncmp(function + length, "_v", 2)));
    *argument = line + end;
    return named && (!strcmp(target, "*") || !strcmp(target, place));
}

static const char *set_for(world_t *world, const char *what, const char *function, const char *place)
{
    const char *line, *argument;
    for (int from = 0; (line = next(world, &from, what));)
        if (same_function(line, function, place, &argument)) return argument;
    return NULL;
}

static int enter(world_t *world, const char *function, nvmlDevice_t device)
{
    char place[32] = "-";
    const char *set;
    struct timespec begun, now, pause = {0, 10 * 1000 * 1000};
    if (device) where(place, device);
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (;;) {
        int failed = read_world(world);
        if (failed) return failed;
        if (!(set = set_for(world, "hang", function, place))) break;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - begun.tv_sec + (now.tv_nsec - begun.tv_nsec) / 1e9 >= atof(set)) break;
        forget(world);
        nanosleep(&pause, NULL);
    }
    if (strcmp(function, "nvmlInit")) {
        const char *current = fact(world, "session");
        if (!initialized || session != (current ? atoi(current) : 0)) return UNINITIALIZED;
    }
    if ((set = set_for(world, "error", function, place)) && atoi(set)) return atoi(set);
    return device && !exists(world, device) ? INVALID_ARGUMENT : OK;
}

#define ENTER(function, device)                                  \
    __attribute__((cleanup(forget))) world_t world;              \
    {                                                            \
        int failed_ = enter(&world, function, device);           \
        if (failed_) return failed_;                             \
    }

static nvmlReturn_t give_text(const char *text, char *buffer, unsigned length)
{
    if (!text || *text == '?') return NOT_SUPPORTED;
    if (strlen(text) >= length) return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return OK;
}

/* Who holds memory */

static int alive(pid_t pid)
{
    char path[64], stat[512];
    if (kill(pid, 0) && errno == ESRCH) return 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t got = read(file, stat, sizeof stat - 1);
    close(file);
    if (got <= 0) return 0;
    stat[got] = 0;
    char *end = strrchr(stat, ')');
    return !end || (end[2] != 'Z' && end[2] != 'X');
}

static int read_allocation(const char *folder, const char *name, process_t *process)
{
    char path[PATH_MAX + 300], text[64], *end;
    long pid = strtol(name, &end, 10);
    if (pid <= 0 || (*end && strcmp(end, ".g") && strcmp(end, ".m"))) return 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    text[got < 0 ? 0 : got] = 0;
    /* Empty: its writer is between open and write; it holds nothing yet. */
    if (text[0] != '?' && (text[0] < '0' || text[0] > '9')) return 0;
    process->pid = pid;
    process->kind = *end ? end[1] : 'c';
    process->bytes = text[0] == '?' ? UNKNOWN_BYTES : strtoull(text, NULL, 10);
    return alive(pid);
}

static int processes(world_t *world, nvmlDevice_t device, process_t *found)
{
    char place[32], name[64], path[PATH_MAX];
    const char *line;
    int n = 0;
    snprintf(name, sizeof name, "process %s", where(place, device));
    for (int from = 0; n < MAX_PROCESSES && (line = next(world, &from, name)); n++) {
        char amount[32], kind[16];
        if (sscanf(line, "%d %31s %15s", &found[n].pid, amount, kind) != 3) { n--; continue; }
        found[n].bytes = *amount == '?' ? UNKNOWN_BYTES : strtoull(amount, NULL, 10);
        found[n].kind = *kind;
    }
    snprintf(name, sizeof name, "alloc/%s", place);
    DIR *folder = opendir(beside(path, name));
    if (!folder) return n;
    for (struct dirent *entry; n < MAX_PROCESSES && (entry = readdir(folder));)
        n += read_allocation(path, entry->d_name, &found[n]);
    closedir(folder);
    return n;
}

static nvmlReturn_t memory(world_t *world, nvmlDevice_t device, bytes_t *total, bytes_t *reserved, bytes_t *unused)
{
    process_t found[MAX_PROCESSES];
    bytes_t held;
    *reserved = 0;
    if (number(world, device, "total", total)) return NOT_SUPPORTED;
    number(world, device, "reserved", reserved);
    held = *reserved;
    for (int i = processes(world, device, found) - 1; i >= 0; i--) {
        int again = 0; /* a process in two lists is given with its whole memory in both */
        for (int j = 0; j < i; j++) again |= found[j].pid == found[i].pid;
        if (!again && found[i].bytes != UNKNOWN_BYTES) held += found[i].bytes;
    }
    *unused = held > *total ? 0 : *total - held;
    number(world, device, "free", unused);
    return OK;
}

/* Entry points: the session */

nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    ENTER("nvmlInit", NULL)
    const char *current = fact(&world, "session");
    int now = current ? atoi(current) : 0;
    if (__atomic_exchange_n(&session, now, __ATOMIC_SEQ_CST) != now) initialized = 0;
    __atomic_add_fetch(&initialized, 1, __ATOMIC_SEQ_CST);
    return OK;
}
nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); }

nvmlReturn_t nvmlShutdown(void)
{
    ENTER("nvmlShutdown", NULL)
    __atomic_sub_fetch(&initialized, 1, __ATOMIC_SEQ_CST);
    return OK;
}

const char *nvmlErrorString(nvmlReturn_t code)
{
    static _Thread_local char text[64];
    snprintf(text, sizeof text, "stand-in error %d", code);
    return text;
}

#define SYSTEM_TEXT(function, key)                                                        \
    nvmlReturn_t function(char *buffer, unsigned length)                                  \
    {                                                                                     \
        ENTER(#function, NULL)                                                            \
        return give_text(fact(&world, key), buffer, length);                              \
    }
SYSTEM_TEXT(nvmlSystemGetDriverVersion, "driver")
SYSTEM_TEXT(nvmlSystemGetNVMLVersion, "nvml")

static nvmlReturn_t cuda_version(const char *function, int *result)
{
    ENTER(function, NULL)
    const char *text = fact(&world, "cuda");
    if (!text) return NOT_SUPPORTED;
    *result = atoi(text);
    return OK;
}
nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *result)
{
    return cuda_version("nvmlSystemGetCudaDriverVersion", result);
}
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *result)
{
    return cuda_version("nvmlSystemGetCudaDriverVersion_v2", result);
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *buffer, unsigned length)
{
    char path[64];
    ENTER("nvmlSystemGetProcessName", NULL)
    snprintf(path, sizeof path, "/proc/%u/exe", pid);
    ssize_t got = readlink(path, buffer, length - 1);
    if (got < 0) return NOT_FOUND;
    buffer[got] = 0;
    return OK;
}

/* Entry points: which devices there are */

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *result)
{
    ENTER("nvmlDeviceGetCount_v2", NULL)
    *result = count(&world);
    return OK;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    if (index >= 64) return INVALID_ARGUMENT;
    ENTER("nvmlDeviceGetHandleByIndex_v2", handle(index, -1))
    *device = handle(index, -1);
    return OK;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    ENTER("nvmlDeviceGetHandleByUUID", NULL)
    for (int gpu = 0; gpu < count(&world); gpu++)
        for (int instance = -1; instance < 8; instance++) {
            const char *text = value(&world, handle(gpu, instance), "uuid");
            if (text && !strcmp(text, uuid)) {
                *device = handle(gpu, instance);
                return OK;
            }
        }
    return NOT_FOUND;
}

static void bus_of(world_t *world, nvmlDevice_t device, char *bus)
{
    const char *text = value(world, handle(gpu_of(device), -1), "bus");
    if (text) snprintf(bus, 32, "%s", text);
    else snprintf(bus, 32, "00000000:%02X:00.0", gpu_of(device) + 1);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *wanted, nvmlDevice_t *device)
{
    char bus[32];
    ENTER("nvmlDeviceGetHandleByPciBusId_v2", NULL)
    for (int gpu = 0; gpu < count(&world); gpu++) {
        bus_of(&world, handle(gpu, -1), bus);
        if (!strcasecmp(bus, wanted)) {
            *device = handle(gpu, -1);
            return OK;
        }
    }
    return NOT_FOUND;
}

#define DEVICE_TEXT(function, key)                                                        \
    nvmlReturn_t function(nvmlDevice_t device, char *buffer, unsigned length)             \
    {                                                                                     \
        ENTER(#function, device)                                                          \
        return give_text(value(&world, device, key), buffer, length);                     \
    }
DEVICE_TEXT(nvmlDeviceGetUUID, "uuid")
DEVICE_TEXT(nvmlDeviceGetName, "name")
DEVICE_TEXT(nvmlDeviceGetSerial, "serial")
DEVICE_TEXT(nvmlDeviceGetVbiosVersion, "vbios")

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index)
{
    ENTER("nvmlDeviceGetIndex", device)
    *index = instance_of(device) < 0 ? gpu_of(device) : instance_of(device);
    return OK;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned *minor)
{
    ENTER("nvmlDeviceGetMinorNumber", device)
    *minor = gpu_of(device);
    return OK;
}

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char text[32];
} pci_t;

static void fill_pci(const char *bus, pci_t *pci)
{
    memset(pci, 0, sizeof *pci);
    snprintf(pci->text, sizeof pci->text, "%s", bus);
    snprintf(pci->legacy, sizeof pci->legacy, "%s", strlen(bus) > 12 ? bus + 4 : bus);
    sscanf(bus, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
    pci->id = 0x268410de;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, pci_t *pci)
{
    char bus[32];
    ENTER("nvmlDeviceGetPciInfo_v3", device)
    bus_of(&world, device, bus);
    fill_pci(bus, pci);
    return OK;
}

/* Entry points: memory and processes */

typedef struct { bytes_t total, unused, used; } memory_v1_t;
typedef struct { unsigned version; bytes_t total, reserved, unused, used; } memory_v2_t;

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, memory_v1_t *result)
{
    bytes_t reserved;
    ENTER("nvmlDeviceGetMemoryInfo", device)
    nvmlReturn_t failed = memory(&world, device, &result->total, &reserved, &result->unused);
    if (!failed) result->used = result->total - result->unused;
    return failed;
}

#if OLD_DRIVER < 1
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, memory_v2_t *result)
{
    if (result->version != (sizeof *result | 2 << 24)) return ARGUMENT_VERSION_MISMATCH;
    ENTER("nvmlDeviceGetMemoryInfo_v2", device)
    nvmlReturn_t failed = memory(&world, device, &result->total, &result->reserved, &result->unused);
    if (!failed) result->used = result->total - result->unused - result->reserved;
    return failed;
}
#endif

typedef struct { bytes_t total, unused, used; } bar1_t;
nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, bar1_t *result)
{
    ENTER("nvmlDeviceGetBAR1MemoryInfo", device)
    result->total = 256 << 20, result->unused = 240 << 20, result->used = 16 << 20;
    return OK;
}

/* The entry of each version of the list: v1 has 16 bytes, v2 and v3 have 24, "wide" v3 has 32. */
static nvmlReturn_t list(const char *function, int version, char kind, nvmlDevice_t device, unsigned *size,
                         char *entries)
{
    process_t found[MAX_PROCESSES];
    ENTER(function, device)
    int wide = version == 3 && fact(&world, "wide"), n = 0;
    size_t stride = version == 1 ? 16 : wide ? 32 : 24;
    int all = processes(&world, device, found);
    for (int i = 0; i < all; i++)
        if (found[i].kind == kind) found[n++] = found[i];
    unsigned room = *size;
    *size = n;
    if ((unsigned)n > room) return INSUFFICIENT_SIZE;
    for (int i = 0; i < n; i++) {
        char *entry = entries + i * stride;
        unsigned pid = found[i].pid, none = ~0u;
        memset(entry, 0, stride);
        memcpy(entry, &pid, 4);
        memcpy(entry + 8, &found[i].bytes, 8);
        if (version > 1) memcpy(entry + 16, &none, 4), memcpy(entry + 20, &none, 4);
    }
    return OK;
}

#define LIST(function, version, kind)                                                     \
    nvmlReturn_t function(nvmlDevice_t device, unsigned *size, void *entries)             \
    {                                                                                     \
        return list(#function, version, kind, device, size, entries);                     \
    }
LIST(nvmlDeviceGetComputeRunningProcesses, 1, 'c')
LIST(nvmlDeviceGetGraphicsRunningProcesses, 1, 'g')
#if OLD_DRIVER < 2
LIST(nvmlDeviceGetMPSComputeRunningProcesses, 1, 'm')
LIST(nvmlDeviceGetComputeRunningProcesses_v2, 2, 'c')
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, 2, 'g')
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, 2, 'm')
#endif
#if OLD_DRIVER < 1
LIST(nvmlDeviceGetComputeRunningProcesses_v3, 3, 'c')
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, 3, 'g')
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, 3, 'm')

/* Nothing, but its presence tells nvitop that the v3 list is the narrow one. */
nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, void *list_)
{
    (void)list_;
    ENTER("nvmlDeviceGetRunningProcessDetailList", device)
    return NOT_SUPPORTED;
}
#endif

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, void *samples, unsigned *size, bytes_t since)
{
    (void)samples, (void)since;
    ENTER("nvmlDeviceGetProcessUtilization", device)
    *size = 0;
    return NOT_FOUND;
}

/* Entry points: figures */

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, unsigned rates[2])
{
    bytes_t of_gpu, of_memory = 0;
    ENTER("nvmlDeviceGetUtilizationRates", device)
    if (number(&world, device, "utilization", &of_gpu)) return NOT_SUPPORTED;
    number(&world, device, "memory_utilization", &of_memory);
    rates[0] = of_gpu, rates[1] = of_memory;
    return OK;
}

#define FIGURE(function, key)                                                             \
    nvmlReturn_t function(nvmlDevice_t device, unsigned *result)                          \
    {                                                                                     \
        bytes_t figure = 0;                                                               \
        ENTER(#function, device)                                                          \
        nvmlReturn_t failed = number(&world, device, key, &figure);                       \
        if (!failed) *result = figure;                                                    \
        return failed;                                                                    \
    }
FIGURE(nvmlDeviceGetComputeMode, "compute_mode")
FIGURE(nvmlDeviceGetPersistenceMode, "persistence")
FIGURE(nvmlDeviceGetPowerUsage, "power")
FIGURE(nvmlDeviceGetEnforcedPowerLimit, "power_limit")
FIGURE(nvmlDeviceGetPowerManagementLimit, "power_limit")
FIGURE(nvmlDeviceGetFanSpeed, "fan")
FIGURE(nvmlDeviceGetPerformanceState, "pstate")
FIGURE(nvmlDeviceGetDisplayActive, "display")
FIGURE(nvmlDeviceGetDisplayMode, "display")
FIGURE(nvmlDeviceGetBrand, "brand")
FIGURE(nvmlDeviceGetRetiredPagesPendingStatus, "retired_pending")
FIGURE(nvmlDeviceGetNumaNodeId, "gpu_numa")

/* SELECTED figures have one argument more before the result; TWO_FIGURES give two of them. */
#define SELECTED(function, key)                                                           \
    nvmlReturn_t function(nvmlDevice_t device, int which, unsigned *result)               \
    {                                                                                     \
        bytes_t figure = 0;                                                               \
        (void)which;                                                                      \
        ENTER(#function, device)                                                          \
        nvmlReturn_t failed = number(&world, device, key, &figure);                       \
        if (!failed) *result = figure;                                                    \
        return failed;                                                                    \
    }
SELECTED(nvmlDeviceGetTemperature, "temperature")
SELECTED(nvmlDeviceGetClockInfo, "clock")
SELECTED(nvmlDeviceGetMaxClockInfo, "clock")
SELECTED(nvmlDeviceGetPcieThroughput, "pcie")

#define TWO_FIGURES(function, first_key, second_key)                                      \
    nvmlReturn_t function(nvmlDevice_t device, unsigned *first, unsigned *second)         \
    {                                                                                     \
        bytes_t figures[2] = {0, 0};                                                      \
        ENTER(#function, device)                                                          \
        if (number(&world, device, first_key, &figures[0])) return NOT_SUPPORTED;         \
        number(&world, device, second_key, &figures[1]);                                  \
        *first = figures[0], *second = figures[1];                                        \
        return OK;                                                                        \
    }
TWO_FIGURES(nvmlDeviceGetEncoderUtilization, "encoder", "sampling")
TWO_FIGURES(nvmlDeviceGetDecoderUtilization, "decoder", "sampling")
TWO_FIGURES(nvmlDeviceGetEccMode, "ecc", "ecc_pending")
TWO_FIGURES(nvmlDeviceGetCudaComputeCapability, "major", "minor")
TWO_FIGURES(nvmlDeviceGetDriverModel, "driver_model", "driver_model")
TWO_FIGURES(nvmlDeviceGetDriverModel_v2, "driver_model", "driver_model")

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int size, void *values)
{
    (void)size, (void)values;
    ENTER("nvmlDeviceGetFieldValues", device)
    return NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, int type, int counter, bytes_t *result)
{
    (void)counter;
    ENTER("nvmlDeviceGetTotalEccErrors", device)
    return number(&world, device, type ? "ecc_uncorrected" : "ecc_corrected", result);
}

nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, int cause, unsigned *size, bytes_t *pages)
{
    bytes_t retired = 0;
    (void)cause;
    ENTER("nvmlDeviceGetRetiredPages", device)
    nvmlReturn_t failed = number(&world, device, "retired", &retired);
    unsigned room = *size;
    if (failed) return failed;
    *size = retired;
    if (retired > room) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < retired; i++) pages[i] = 0x1000 * (i + 1);
    return OK;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned *fixed, unsigned *lost, unsigned *pending,
                                       unsigned *failure)
{
    bytes_t rows[4] = {0, 0, 0, 0};
    ENTER("nvmlDeviceGetRemappedRows", device)
    if (number(&world, device, "remapped", &rows[1])) return NOT_SUPPORTED;
    number(&world, device, "remap_pending", &rows[2]);
    number(&world, device, "remap_failure", &rows[3]);
    *fixed = rows[0], *lost = rows[1], *pending = rows[2], *failure = rows[3];
    return OK;
}

/* Entry points: MIG */

#if OLD_DRIVER < 2
nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    bytes_t mode = 0;
    ENTER("nvmlDeviceGetMigMode", device)
    nvmlReturn_t failed = number(&world, device, "mig", &mode);
    if (!failed) *current = *pending = mode;
    return failed;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned *result)
{
    bytes_t mode;
    ENTER("nvmlDeviceGetMaxMigDeviceCount", device)
    *result = number(&world, device, "mig", &mode) ? 0 : 7;
    return OK;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index, nvmlDevice_t *result)
{
    ENTER("nvmlDeviceGetMigDeviceHandleByIndex", device)
    if (index >= 7) return INVALID_ARGUMENT;
    *result = handle(gpu_of(device), index);
    return exists(&world, *result) ? OK : NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *result)
{
    ENTER("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", device)
    if (instance_of(device) < 0) return INVALID_ARGUMENT;
    *result = handle(gpu_of(device), -1);
    return OK;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned *result)
{
    ENTER("nvmlDeviceIsMigDeviceHandle", device)
    *result = instance_of(device) >= 0;
    return OK;
}
FIGURE(nvmlDeviceGetGpuInstanceId, "gi")
FIGURE(nvmlDeviceGetComputeInstanceId, "ci")
#endif

/* Entry points: how GPUs are connected */

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t a, nvmlDevice_t b, unsigned *level)
{
    char prefix[64];
    const char *text;
    ENTER("nvmlDeviceGetTopologyCommonAncestor", a)
    snprintf(prefix, sizeof prefix, "topology %d %d", gpu_of(a), gpu_of(b));
    if (!(text = fact(&world, prefix))) {
        snprintf(prefix, sizeof prefix, "topology %d %d", gpu_of(b), gpu_of(a));
        text = fact(&world, prefix);
    }
    *level = text ? atoi(text) : 30;
    return OK;
}

/* The GPU (-1: a switch) at the other end of link number `wanted` of a GPU; returns whether there is such a link. */
static int remote(world_t *world, int gpu, int wanted, int *other)
{
    const char *line;
    for (int from = 0; (line = next(world, &from, "nvlink"));) {
        char end[16];
        int a, b, links;
        if (sscanf(line, "%d %15s %d", &a, end, &links) != 3) continue;
        b = *end == 's' ? -1 : atoi(end);
        if (a != gpu && b != gpu) continue;
        if (wanted < links) {
            *other = a == gpu ? b : a;
            return 1;
        }
        wanted -= links;
    }
    return 0;
}

static int switched(world_t *world, int gpu)
{
    int other;
    for (int link = 0; remote(world, gpu, link, &other); link++)
        if (other == -1) return 1;
    return 0;
}

nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t a, nvmlDevice_t b, int capability, unsigned *status)
{
    int other;
    ENTER("nvmlDeviceGetP2PStatus", a)
    *status = 5; /* not supported */
    if (capability != 2) return OK;
    if (switched(&world, gpu_of(a)) && switched(&world, gpu_of(b))) *status = 0;
    for (int link = 0; remote(&world, gpu_of(a), link, &other); link++)
        if (other == gpu_of(b)) *status = 0;
    return OK;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned link, unsigned *active)
{
    int other;
    ENTER("nvmlDeviceGetNvLinkState", device)
    if (!remote(&world, gpu_of(device), 0, &other)) return NOT_SUPPORTED;
    if (link >= 18) return INVALID_ARGUMENT;
    *active = remote(&world, gpu_of(device), link, &other);
    return OK;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned link, pci_t *pci)
{
    char bus[32] = "00000000:C0:00.0";
    int other;
    ENTER("nvmlDeviceGetNvLinkRemotePciInfo_v2", device)
    if (!remote(&world, gpu_of(device), link, &other)) return NOT_SUPPORTED;
    if (other >= 0) bus_of(&world, handle(other, -1), bus);
    fill_pci(bus, pci);
    return OK;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned link, unsigned *type)
{
    int other;
    ENTER("nvmlDeviceGetNvLinkRemoteDeviceType", device)
    if (!remote(&world, gpu_of(device), link, &other)) return NOT_SUPPORTED;
    *type = other < 0 ? 2 : 0;
    return OK;
}

nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned size, unsigned long *nodes, unsigned scope)
{
    bytes_t node = 0;
    (void)scope;
    ENTER("nvmlDeviceGetMemoryAffinity", device)
    nvmlReturn_t failed = number(&world, device, "numa", &node);
    if (failed) return failed;
    if (node / 64 >= size) return INVALID_ARGUMENT;
    memset(nodes, 0, size * sizeof *nodes);
    nodes[node / 64] = 1UL << node % 64;
    return OK;
}

/* Entry points: events */

typedef struct { nvmlDevice_t device; bytes_t type, data; unsigned gi, ci; } event_t;
typedef struct { int seen; unsigned long long gpus; } events_t;

nvmlReturn_t nvmlEventSetCreate(events_t **set)
{
    ENTER("nvmlEventSetCreate", NULL)
    const char *line;
    if (!(*set = calloc(1, sizeof **set))) return UNKNOWN;
    for (int from = 0; (line = next(&world, &from, "xid"));) (*set)->seen++;
    return OK;
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, bytes_t *types)
{
    ENTER("nvmlDeviceGetSupportedEventTypes", device)
    *types = 0x8;
    return OK;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, bytes_t types, events_t *set)
{
    ENTER("nvmlDeviceRegisterEvents", device)
    if (types & 0x8) set->gpus |= 1ULL << gpu_of(device);
    return OK;
}

static int next_event(world_t *world, events_t *set, event_t *event)
{
    const char *line;
    int from = 0, number = 0, gpu, code;
    while ((line = next(world, &from, "xid"))) {
        if (number++ < set->seen) continue;
        set->seen++;
        if (sscanf(line, "%d %d", &gpu, &code) != 2 || !(set->gpus >> gpu & 1)) continue;
        *event = (event_t){handle(gpu, -1), 0x8, code, ~0u, ~0u};
        return 1;
    }
    return 0;
}

nvmlReturn_t nvmlEventSetWait_v2(events_t *set, event_t *event, unsigned milliseconds)
{
    struct timespec pause = {0, 10 * 1000 * 1000};
    for (unsigned waited = 0;; waited += 10) {
        ENTER("nvmlEventSetWait_v2", NULL)
        if (next_event(&world, set, event)) return OK;
        if (waited >= milliseconds) return TIMED_OUT;
        nanosleep(&pause, NULL);
    }
}

nvmlReturn_t nvmlEventSetFree(events_t *set)
{
    ENTER("nvmlEventSetFree", NULL)
    free(set);
    return OK;
}

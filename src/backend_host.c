/* backend_host: the machine's own processors as a device. A stream is a formality, since host kernels have finished
 * when their launch returns; an event is a stamp of the monotonic clock. */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "device.h"
#include "family.h"

#define ALIGNMENT_BYTES 256 /* what moet_family_launch_args promises for a workspace */
#define GIB ((int64_t)1 << 30)

typedef struct host_event {
    struct timespec time;
} host_event;

/* ---- facts from /proc and /sys ---- */

/* The first line of a small text file; false where it cannot be read. */
static bool read_line(const char *path, char *line, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file) return false;
    bool read = fgets(line, (int)size, file) != NULL;
    fclose(file);
    if (read) line[strcspn(line, "\n")] = '\0';
    return read;
}

/* The text after `key` and its separator on the first line that starts with it: "model name : x", "MemTotal: 5 kB". */
static bool read_field(const char *path, const char *key, char *value, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file) return false;
    char line[512];
    size_t length = strlen(key);
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) != 0) continue;
        const char *at = line + length + strspn(line + length, " \t");
        if (*at == ':')
            at++;
        else if (at == line + length)
            continue; /* a longer key */
        at += strspn(at, " \t");
        snprintf(value, size, "%.*s", (int)strcspn(at, "\n"), at);
        found = *value != '\0';
    }
    fclose(file);
    return found;
}

/* A number with an optional unit of K or kB, in bytes; -1 where there is none ("max"). */
static int64_t parse_bytes(const char *text)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || errno || value < 0) return -1;
    end += strspn(end, " ");
    bool kilo = *end == 'k' || *end == 'K';
    if (kilo && value > LLONG_MAX / 1024) return -1;
    return kilo ? value * 1024 : value;
}

static int64_t read_meminfo(const char *key)
{
    char text[64];
    return read_field("/proc/meminfo", key, text, sizeof text) ? parse_bytes(text) : -1;
}

/* This process's control group (version 2) as a folder without a '/' at its end; "" where there is none. */
static void find_cgroup(char folder[PATH_MAX])
{
    char path[PATH_MAX - 32];
    folder[0] = '\0';
    if (!read_field("/proc/self/cgroup", "0:", path, sizeof path) || path[0] != '/') return;
    snprintf(folder, PATH_MAX, "/sys/fs/cgroup%s", strcmp(path, "/") == 0 ? "" : path);
}

/* From a control group to its parent; false past the root. */
static bool cgroup_parent(char *folder)
{
    if (strcmp(folder, "/sys/fs/cgroup") == 0) return false;
    *strrchr(folder, '/') = '\0';
    return true;
}

static bool cgroup_line(const char *folder, const char *file, char *line, size_t size)
{
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    return read_line(path, line, size);
}

/* The tightest processor quota, in whole processors; INT32_MAX where there is none. */
static int32_t read_cpu_quota(void)
{
    char folder[PATH_MAX], line[64];
    int32_t cpus = INT32_MAX;
    find_cgroup(folder);
    if (!folder[0]) return cpus;
    do {
        long long quota, period;
        if (!cgroup_line(folder, "cpu.max", line, sizeof line)) continue;
        if (sscanf(line, "%lld %lld", &quota, &period) != 2 || quota <= 0 || period <= 0) continue;
        /* Rounded down: a thread more than the quota would be throttled in every period. */
        int64_t whole = quota / period > 0 ? quota / period : 1;
        if (whole < cpus) cpus = (int32_t)whole;
    } while (cgroup_parent(folder));
    return cpus;
}

/* The tightest memory limit and what is left under the tightest; INT64_MAX where there is none. */
static void read_memory_limit(int64_t *limit_bytes, int64_t *left_bytes)
{
    char folder[PATH_MAX], line[64], path[PATH_MAX + 32];
    *limit_bytes = *left_bytes = INT64_MAX;
    find_cgroup(folder);
    if (!folder[0]) return;
    do {
        int64_t limit = cgroup_line(folder, "memory.max", line, sizeof line) ? parse_bytes(line) : -1;
        if (limit < 0) continue;
        int64_t used = cgroup_line(folder, "memory.current", line, sizeof line) ? parse_bytes(line) : 0;
        snprintf(path, sizeof path, "%s/memory.stat", folder);
        int64_t cache = read_field(path, "inactive_file", line, sizeof line) ? parse_bytes(line) : 0;
        int64_t left = limit - used + (cache > 0 ? cache : 0); /* the page cache gives way */
        if (limit < *limit_bytes) *limit_bytes = limit;
        if (left < *left_bytes) *left_bytes = left > 0 ? left : 0;
    } while (cgroup_parent(folder));
}

int32_t moet_host_processors(void)
{
    int32_t cpus = 0;
    /* Grows until the kernel's mask fits: machines with more than CPU_SETSIZE processors. */
    for (int32_t bits = CPU_SETSIZE; bits <= 1 << 18 && cpus == 0; bits *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)bits);
        if (!set) break;
        size_t size = CPU_ALLOC_SIZE((size_t)bits);
        if (sched_getaffinity(0, size, set) == 0) cpus = CPU_COUNT_S(size, set);
        CPU_FREE(set);
    }
    if (cpus == 0) cpus = (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    int32_t quota = read_cpu_quota();
    if (cpus > quota) cpus = quota;
    return cpus > 0 ? cpus : 1;
}

/* Keys are "name=value,..." text: what would break them becomes a space, runs of spaces become one. */
static void copy_name(char *to, size_t size, const char *from)
{
    size_t used = 0;
    for (; *from && used + 1 < size; from++) {
        bool plain = isgraph((unsigned char)*from) && !strchr(",=\"\\", *from);
        if (!plain && (used == 0 || to[used - 1] == ' ')) continue;
        to[used++] = plain ? *from : ' ';
    }
    if (used && to[used - 1] == ' ') used--;
    to[used] = '\0';
}

static void read_cpu_name(char *name, size_t size)
{
    char text[256], implementer[64], part[64];
    struct utsname machine;
    if (!read_field("/proc/cpuinfo", "model name", text, sizeof text)) {
        const char *arch = uname(&machine) == 0 ? machine.machine : "unknown";
        if (read_field("/proc/cpuinfo", "CPU implementer", implementer, sizeof implementer) &&
            read_field("/proc/cpuinfo", "CPU part", part, sizeof part))
            snprintf(text, sizeof text, "%s implementer %s part %s", arch, implementer, part);
        else
            snprintf(text, sizeof text, "%s processor", arch);
    }
    copy_name(name, size, text);
}

static int64_t read_l2_bytes(void)
{
    for (int32_t i = 0; i < 8; i++) {
        char path[96], text[32];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
        if (!read_line(path, text, sizeof text)) break;
        if (strcmp(text, "2") != 0) continue;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        int64_t bytes = read_line(path, text, sizeof text) ? parse_bytes(text) : -1;
        return bytes > 0 ? bytes : 0;
    }
    return 0;
}

/* The BLAS is part of what is measured. Its family knows how to find it. */
static void read_blas_name(char *name, size_t size)
{
    const moet_family *blas = moet_family_find("host_blas");
    char text[64];
    copy_name(name, size, blas && blas->validator && blas->validator(text) == MOET_OK ? text : "no BLAS");
}

/* ---- the backend ---- */

static moet_status host_count(int32_t *count)
{
    *count = 1;
    return MOET_OK;
}

static moet_status host_activate(moet_device *device)
{
    (void)device;
    return MOET_OK;
}

static moet_status host_open(int32_t ordinal, moet_device *device)
{
    (void)ordinal; /* one device: the caller has checked it against count */
    moet_device_info info = {.backend = "host"};
    int64_t limit_bytes, left_bytes, total_bytes = read_meminfo("MemTotal");
    read_memory_limit(&limit_bytes, &left_bytes);
    if (total_bytes < 0) total_bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    if (total_bytes > limit_bytes) total_bytes = limit_bytes;
    /* In whole GiB: what the kernel keeps for itself differs by a few MiB from boot to boot, the device does not. */
    info.memory_bytes = (total_bytes + GIB - 1) / GIB * GIB;
    info.sm_count = moet_host_processors();
    info.l2_bytes = read_l2_bytes();
    read_cpu_name(info.name, sizeof info.name);
    read_blas_name(info.partition, sizeof info.partition);
    device->info = info;
    device->impl = NULL;
    return MOET_OK;
}

static void host_close(moet_device *device) { (void)device; }

static moet_status host_free_bytes(moet_device *device, size_t *size_bytes)
{
    (void)device;
    int64_t limit_bytes, left_bytes, available_bytes = read_meminfo("MemAvailable");
    if (available_bytes < 0)
        return moet_fail(MOET_DEVICE, "host: /proc/meminfo has no MemAvailable; is /proc mounted?");
    read_memory_limit(&limit_bytes, &left_bytes);
    if (available_bytes > left_bytes) available_bytes = left_bytes;
    /* A sixteenth stays for the rest of the machine: the kernel kills processes before the last byte is gone. */
    *size_bytes = (size_t)(available_bytes - available_bytes / 16);
    return MOET_OK;
}

static moet_status host_alloc(moet_device *device, size_t size_bytes, void **memory)
{
    size_t available_bytes = 0;
    void *result = NULL;
    MOET_TRY(host_free_bytes(device, &available_bytes));
    if (size_bytes > available_bytes || posix_memalign(&result, ALIGNMENT_BYTES, size_bytes ? size_bytes : 1) != 0)
        return moet_fail(MOET_NO_DEVICE_MEMORY, "host: %zu bytes of memory are needed, %zu are available", size_bytes,
                         available_bytes);
    /* The kernel hands pages out at the first write; taking them here keeps that out of launches, and makes the check
     * above see what earlier allocations hold. */
    long page_bytes = sysconf(_SC_PAGESIZE);
    for (size_t at = 0; at < size_bytes; at += (size_t)page_bytes) ((volatile char *)result)[at] = 0;
    *memory = result;
    return MOET_OK;
}

static void host_free(moet_device *device, void *memory)
{
    (void)device;
    free(memory);
}

static moet_status host_copy(moet_device *device, void *to, const void *from, size_t size_bytes)
{
    (void)device;
    if (size_bytes) memcpy(to, from, size_bytes);
    return MOET_OK;
}

static moet_status host_fill(moet_device *device, void *memory, uint8_t byte, size_t size_bytes)
{
    (void)device;
    if (size_bytes) memset(memory, byte, size_bytes);
    return MOET_OK;
}

static moet_status host_stream_create(moet_device *device, void **stream)
{
    *stream = device; /* every launch is synchronous: one stream serves all, and NULL would read as "none" */
    return MOET_OK;
}

static void host_stream_destroy(moet_device *device, void *stream)
{
    (void)device;
    (void)stream;
}

static moet_status host_stream_synchronize(moet_device *device, void *stream)
{
    (void)device;
    (void)stream;
    return MOET_OK;
}

static moet_status host_event_create(moet_device *device, void **event)
{
    (void)device;
    host_event *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "host: no memory for an event");
    *event = result;
    return MOET_OK;
}

static void host_event_destroy(moet_device *device, void *event)
{
    (void)device;
    free(event);
}

static moet_status host_event_record(moet_device *device, void *event, void *stream)
{
    (void)device;
    (void)stream;
    host_event *stamp = event;
    if (clock_gettime(CLOCK_MONOTONIC, &stamp->time) != 0)
        return moet_fail(MOET_DEVICE, "host: the monotonic clock cannot be read: %s", strerror(errno));
    return MOET_OK;
}

static moet_status host_event_elapsed_us(moet_device *device, void *begin, void *end, double *time_us)
{
    (void)device;
    const host_event *from = begin, *to = end;
    *time_us =
        (double)(to->time.tv_sec - from->time.tv_sec) * 1e6 + (double)(to->time.tv_nsec - from->time.tv_nsec) * 1e-3;
    return MOET_OK;
}

static moet_status host_clocks(moet_device *device, moet_clocks *clocks)
{
    (void)device;
    char text[32];
    moet_clocks result = {0};
    if (read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", text, sizeof text)) {
        long long khz = strtoll(text, NULL, 10);
        if (khz > 0 && khz < INT32_MAX) result.sm_mhz = (int32_t)(khz / 1000);
    }
    *clocks = result;
    return MOET_OK;
}

extern const moet_backend moet_backend_host;
const moet_backend moet_backend_host = {
    .name = "host",
    .count = host_count,
    .open = host_open,
    .close = host_close,
    .activate = host_activate,
    .alloc = host_alloc,
    .free = host_free,
    .free_bytes = host_free_bytes,
    .upload = host_copy,
    .download = host_copy,
    .fill = host_fill,
    .stream_create = host_stream_create,
    .stream_destroy = host_stream_destroy,
    .stream_synchronize = host_stream_synchronize,
    .event_create = host_event_create,
    .event_destroy = host_event_destroy,
    .event_record = host_event_record,
    .event_elapsed_us = host_event_elapsed_us,
    .clocks = host_clocks,
};

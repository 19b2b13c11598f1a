/* ep_device_host: windows are anonymous files, mapped by the other ranks through /proc. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ep_device.h"

void moet_ep_host_name(char text[MOET_EP_HOST_SIZE])
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    memset(text, 0, MOET_EP_HOST_SIZE);
    if (!file) return;
    if (!fgets(text, MOET_EP_HOST_SIZE, file)) text[0] = '\0';
    fclose(file);
}

static moet_status words_alloc(moet_device *device, size_t bytes, void **memory)
{
    (void)device;
    *memory = calloc(1, bytes);
    return *memory ? MOET_OK : moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
}

static void words_free(moet_device *device, void *memory)
{
    (void)device;
    free(memory);
}

static void window_unmap(moet_device *device, int32_t rank, int32_t ranks, size_t bytes, void **peers)
{
    (void)device;
    for (int32_t i = 0; i < ranks; i++) {
        if (i == rank || !peers[i]) continue;
        munmap(peers[i], bytes);
        peers[i] = NULL;
    }
}

static void window_free(moet_device *device, size_t bytes, void *own)
{
    (void)device;
    if (own) munmap(own, bytes);
}

moet_status moet_ep_all_mapped(moet_ep_comm *control, moet_status status)
{
    const char done = status == MOET_OK;
    char *all = calloc((size_t)control->ranks, 1);
    if (!all) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    char why[512];
    snprintf(why, sizeof why, "%s", moet_last_error());
    const moet_status gathered = moet_ep_comm_allgather(control, &done, 1, all);
    if (status != MOET_OK) {
        status = moet_fail(status, "%s", why);
    } else if (gathered != MOET_OK) {
        status = gathered;
    } else {
        for (int32_t i = 0; i < control->ranks && status == MOET_OK; i++) {
            if (!all[i]) status = moet_fail(MOET_UNSUPPORTED, "shared memory: rank %d cannot reach the others' memory", i);
        }
    }
    free(all);
    return status;
}

/* Where a rank's window is. */
typedef struct window_place {
    char host[MOET_EP_HOST_SIZE];
    int32_t pid, fd;
} window_place;

static moet_status map_window(int fd, size_t bytes, int32_t rank, void **memory)
{
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED)
        return moet_fail(MOET_NO_MEMORY, "shared memory: mapping %zu bytes of rank %d: %s", bytes, rank, strerror(errno));
    *memory = mapped;
    return MOET_OK;
}

static moet_status window_open(moet_device *device, moet_ep_comm *control, size_t bytes, void **peers)
{
    window_place own = {.pid = getpid(), .fd = memfd_create("moet_ep", MFD_CLOEXEC)}, *places = NULL;
    moet_status status = MOET_OK;
    memset(peers, 0, (size_t)control->ranks * sizeof *peers);
    moet_ep_host_name(own.host);
    if (own.fd < 0 || ftruncate(own.fd, (off_t)bytes) != 0)
        status = moet_fail(MOET_NO_MEMORY, "shared memory: a window of %zu bytes: %s", bytes, strerror(errno));
    if (status == MOET_OK) status = map_window(own.fd, bytes, control->rank, &peers[control->rank]);
    places = calloc((size_t)control->ranks, sizeof *places);
    if (status == MOET_OK && !places) status = moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    if (status == MOET_OK) status = moet_ep_comm_allgather(control, &own, sizeof own, places);
    if (status != MOET_OK) goto done;
    for (int32_t i = 0; i < control->ranks && status == MOET_OK; i++) {
        char path[64];
        if (i == control->rank) continue;
        if (own.host[0] == '\0' || strcmp(places[i].host, own.host) != 0) {
            status = moet_fail(MOET_UNSUPPORTED, "shared memory: rank %d is on another host than rank %d", i, control->rank);
            break;
        }
        snprintf(path, sizeof path, "/proc/%d/fd/%d", places[i].pid, places[i].fd);
        const int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0) {
            status = moet_fail(MOET_UNSUPPORTED, "shared memory: rank %d cannot open rank %d's memory: %s", control->rank, i,
                               strerror(errno));
            break;
        }
        status = map_window(fd, bytes, i, &peers[i]);
        close(fd);
    }
    status = moet_ep_all_mapped(control, status); /* the files stay open until then */
done:
    if (own.fd >= 0) close(own.fd);
    free(places);
    if (status != MOET_OK) {
        window_unmap(device, control->rank, control->ranks, bytes, peers);
        window_free(device, bytes, peers[control->rank]);
        peers[control->rank] = NULL;
    }
    return status;
}

static moet_status stream_is_done(moet_device *device, void *stream, bool *is_done)
{
    (void)device, (void)stream;
    *is_done = true;
    return MOET_OK;
}

static moet_status stream_wait(moet_device *device, void *stream, void *event)
{
    (void)device, (void)stream, (void)event;
    return MOET_OK;
}

static moet_status stream_is_captured(moet_device *device, void *stream, bool *is_captured)
{
    (void)device, (void)stream;
    *is_captured = false;
    return MOET_OK;
}

static moet_status copy_async(moet_device *device, void *to, const void *from, size_t bytes, void *stream)
{
    (void)device, (void)stream;
    memcpy(to, from, bytes);
    return MOET_OK;
}

static moet_status flag_async(moet_device *device, uint32_t *to, const uint32_t *from, void *stream)
{
    (void)device, (void)stream;
    __atomic_store_n(to, *from, __ATOMIC_RELEASE);
    return MOET_OK;
}

const moet_ep_device_table moet_ep_device_host = {.backend = "host",
                                                  .words_alloc = words_alloc,
                                                  .words_free = words_free,
                                                  .window_open = window_open,
                                                  .window_unmap = window_unmap,
                                                  .window_free = window_free,
                                                  .stream_is_done = stream_is_done,
                                                  .stream_wait = stream_wait,
                                                  .stream_is_captured = stream_is_captured,
                                                  .copy_async = copy_async,
                                                  .flag_async = flag_async};

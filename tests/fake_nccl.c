/* libnccl.so.2 of fake_nccl.h: a communicator is a file that the ranks map. */
#include "fake_nccl.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

FAKE_EXPORT int ncclGetVersion(int *version)
{
    *version = fake_number("FAKE_NCCL_VERSION", 23007);
    return FAKE_OK;
}

FAKE_EXPORT const char *ncclGetErrorString(int result)
{
    return result == FAKE_INVALID ? "invalid argument" : result == FAKE_OK ? "no error" : "internal error";
}

FAKE_EXPORT int ncclGetUniqueId(nccl_id *id)
{
    static atomic_int next;
    const char *folder = getenv("TMPDIR");
    snprintf(id->bytes, sizeof id->bytes, "%.80s/moet-fake-nccl-%d-%d", folder ? folder : "/tmp", (int)getpid(),
             atomic_fetch_add(&next, 1));
    return FAKE_OK;
}

FAKE_EXPORT int ncclCommInitRankConfig(void **comm, int ranks, nccl_id id, int rank, nccl_config *config)
{
    const size_t bytes = FAKE_BOARD_HEAD + (size_t)ranks * FAKE_AREA;
    if (config->size < sizeof *config || config->magic != NCCL_MAGIC || config->blocking != 1) return FAKE_INVALID;
    while (fake_number("FAKE_NCCL_SLEEPS", -1) == rank) pause();
    const int fd = open(id.bytes, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) return FAKE_INTERNAL;
    void *board = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    fake_comm *result = malloc(sizeof *result);
    if (board == MAP_FAILED || !result) return FAKE_INTERNAL;
    *result = (fake_comm){rank, ranks, board};
    fake_barrier(result);
    if (rank == 0) unlink(id.bytes);
    *comm = result;
    return FAKE_OK;
}

FAKE_EXPORT int ncclCommGetAsyncError(void *comm, int *result)
{
    *result = FAKE_OK;
    return comm ? FAKE_OK : FAKE_INVALID;
}

FAKE_EXPORT int ncclCommQueryProperties(void *comm, nccl_properties *at)
{
    const fake_comm *c = comm;
    if (at->size != sizeof *at || at->magic != NCCL_MAGIC || at->version < 22907) return FAKE_INVALID;
    at->rank = c->rank;
    at->ranks = c->ranks;
    at->has_device_api = !fake_lacks("device");
    at->lsa_teams = fake_lacks("network") ? 2 : 1;
    at->railed_gin_type = 0;
    return FAKE_OK;
}

FAKE_EXPORT int ncclCommDestroy(void *comm)
{
    fake_comm *c = comm;
    fake_barrier(c);
    munmap(c->board, FAKE_BOARD_HEAD + (size_t)c->ranks * FAKE_AREA);
    free(c);
    return FAKE_OK;
}

FAKE_EXPORT int ncclMemAlloc(void **memory, size_t bytes)
{
    *memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return *memory ? FAKE_OK : FAKE_INTERNAL;
}

FAKE_EXPORT int ncclMemFree(void *memory)
{
    free(memory);
    return FAKE_OK;
}

FAKE_EXPORT int ncclCommWindowRegister(void *comm, void *memory, size_t bytes, void **window, int flags)
{
    fake_window *result = malloc(sizeof *result);
    if (!result || (uintptr_t)memory % 4096 || flags != NCCL_WINDOW_SYMMETRIC) return FAKE_INVALID;
    *result = (fake_window){memory, bytes};
    fake_barrier(comm);
    *window = result;
    if (!fake_lacks("windows")) return FAKE_OK;
    free(result);
    *window = NULL;
    return FAKE_OK;
}

FAKE_EXPORT int ncclCommWindowDeregister(void *comm, void *window)
{
    free(window);
    return comm ? FAKE_OK : FAKE_INVALID;
}

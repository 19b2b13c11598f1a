/* ep_comm_mpi: ep_comm.h over OpenMPI, whose C interface is declared by hand and bound at run time, so that neither
 * building nor starting needs it. Its handles are addresses of objects in the library. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ep_comm.h"

typedef struct mpi_api {
    int (*initialized)(int *flag);
    int (*finalized)(int *flag);
    int (*init_thread)(int *argc, char ***argv, int required, int *provided);
    int (*finalize)(void);
    int (*comm_dup)(void *comm, void **copy);
    int (*comm_free)(void **comm);
    int (*comm_rank)(void *comm, int *rank);
    int (*comm_size)(void *comm, int *size);
    int (*comm_set_errhandler)(void *comm, void *handler);
    int (*isend)(const void *bytes, int count, void *type, int to, int tag, void *comm, void **request);
    int (*irecv)(void *bytes, int count, void *type, int from, int tag, void *comm, void **request);
    int (*testsome)(int count, void **requests, int *done, int *indices, void *statuses);
    void *world, *byte, *errors_return; /* the objects themselves */
} mpi_api;

enum { MPI_SUCCESS = 0, THREAD_SERIALIZED = 2, UNDEFINED = -32766 };

static const moet_symbol symbols[] = {
    {"MPI_Initialized", offsetof(mpi_api, initialized), false},
    {"MPI_Finalized", offsetof(mpi_api, finalized), false},
    {"MPI_Init_thread", offsetof(mpi_api, init_thread), false},
    {"MPI_Finalize", offsetof(mpi_api, finalize), false},
    {"MPI_Comm_dup", offsetof(mpi_api, comm_dup), false},
    {"MPI_Comm_free", offsetof(mpi_api, comm_free), false},
    {"MPI_Comm_rank", offsetof(mpi_api, comm_rank), false},
    {"MPI_Comm_size", offsetof(mpi_api, comm_size), false},
    {"MPI_Comm_set_errhandler", offsetof(mpi_api, comm_set_errhandler), false},
    {"MPI_Isend", offsetof(mpi_api, isend), false},
    {"MPI_Irecv", offsetof(mpi_api, irecv), false},
    {"MPI_Testsome", offsetof(mpi_api, testsome), false},
    {"ompi_mpi_comm_world", offsetof(mpi_api, world), false}, /* only OpenMPI has these */
    {"ompi_mpi_byte", offsetof(mpi_api, byte), false},
    {"ompi_mpi_errors_return", offsetof(mpi_api, errors_return), false},
};

static const char *const sonames[] = {"libmpi.so.40", "libmpi.so", NULL};

/* MPI_Finalize at the end of the process, where this library called MPI_Init: MPI can be started once only, and is no
 * less global than this. After an error it would wait for ranks that do not come, and is left out. */
static int (*finalize_at_exit)(void);
static void finalize(void)
{
    if (finalize_at_exit) finalize_at_exit();
}

/* Messages of so many bytes at most: counts are int. */
enum { PIECE_BYTES = 1 << 30 };

typedef struct mpi_comm {
    mpi_api api;
    void *world; /* a copy of its own */
    bool is_broken;
} mpi_comm;

/* A request, and whose it is. */
typedef struct pending {
    void **requests;
    int32_t *peers;
    int *indices;
    int32_t count, left;
} pending;

static moet_status fail_mpi(int code, const char *what)
{
    return moet_fail(MOET_DEVICE, "MPI: %s failed with error %d", what, code);
}

static moet_status start(mpi_comm *impl, const moet_ep_part *parts, int32_t peer, pending *p)
{
    for (int32_t sends = 0; sends < 2; sends++) {
        const size_t bytes = sends ? parts[peer].send_bytes : parts[peer].recv_bytes;
        for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
            const int count = (int)(bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES);
            void **request = &p->requests[p->count];
            const int code = sends ? impl->api.isend((const char *)parts[peer].send + at, count, impl->api.byte, peer,
                                                     0, impl->world, request)
                                   : impl->api.irecv((char *)parts[peer].recv + at, count, impl->api.byte, peer, 0,
                                                     impl->world, request);
            if (code != MPI_SUCCESS) return fail_mpi(code, sends ? "MPI_Isend" : "MPI_Irecv");
            p->peers[p->count++] = peer;
        }
    }
    return MOET_OK;
}

static moet_status mpi_exchange(moet_ep_comm *comm, const moet_ep_part *parts, void *stream)
{
    (void)stream;
    mpi_comm *impl = comm->impl;
    size_t most = 1;
    for (int32_t i = 0; i < comm->ranks; i++)
        most += parts[i].send_bytes / PIECE_BYTES + parts[i].recv_bytes / PIECE_BYTES + 2;
    pending p = {calloc(most, sizeof *p.requests), calloc(most, sizeof *p.peers), calloc(most, sizeof *p.indices), 0,
                 0};
    moet_status status = p.requests && p.peers && p.indices
                             ? MOET_OK
                             : moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    for (int32_t i = 0; i < comm->ranks && status == MOET_OK; i++) {
        if (i != comm->rank) status = start(impl, parts, i, &p);
    }
    p.left = p.count;
    int64_t deadline_ms = moet_ep_now_ms() + comm->timeout_ms;
    while (p.left > 0 && status == MOET_OK) {
        int done = 0;
        const int code = impl->api.testsome(p.count, p.requests, &done, p.indices, NULL);
        if (code != MPI_SUCCESS) {
            status = fail_mpi(code, "MPI_Testsome");
        } else if (done != UNDEFINED && done > 0) {
            for (int i = 0; i < done; i++) p.peers[p.indices[i]] = -1;
            p.left -= done;
            deadline_ms = moet_ep_now_ms() + comm->timeout_ms;
        } else if (moet_ep_now_ms() > deadline_ms) {
            int32_t peer = -1;
            for (int32_t i = 0; i < p.count && peer < 0; i++) peer = p.peers[i];
            status = moet_fail(MOET_TIMEOUT, "rank %d waited %d ms for rank %d, which does not answer", comm->rank,
                               comm->timeout_ms, peer);
        } else {
            usleep(20); /* ranks may be more than processors */
        }
    }
    /* After an error requests are still MPI's, and so the arrays are left to it. */
    if (status == MOET_OK || p.count == 0) {
        free(p.requests);
        free(p.peers);
        free(p.indices);
    }
    if (status != MOET_OK) {
        finalize_at_exit = NULL;
        impl->is_broken = true;
    }
    return status;
}

static moet_status mpi_check(moet_ep_comm *comm)
{
    (void)comm;
    return MOET_OK;
}

static void mpi_abort(moet_ep_comm *comm)
{
    mpi_comm *impl = comm->impl;
    impl->is_broken = true;
}

/* An MPI library has so many communicators and no more. Freeing one is collective, so not after an error. */
static void mpi_destroy(moet_ep_comm *comm)
{
    mpi_comm *impl = comm->impl;
    int is_over = 0;
    if (!impl->is_broken && impl->api.finalized(&is_over) == MPI_SUCCESS && !is_over) impl->api.comm_free(&impl->world);
    free(impl);
    free(comm);
}

static const moet_ep_comm_table mpi_table = {.name = "mpi",
                                             .is_host = true,
                                             .exchange = mpi_exchange,
                                             .check = mpi_check,
                                             .abort = mpi_abort,
                                             .destroy = mpi_destroy};

static moet_status initialise(const mpi_api *api)
{
    int is_there = 0, is_over = 0, provided = 0;
    if (api->initialized(&is_there) != MPI_SUCCESS || api->finalized(&is_over) != MPI_SUCCESS || is_over)
        return moet_fail(MOET_INVALID, "MPI: it was finalised before");
    if (is_there) return MOET_OK;
    const int code = api->init_thread(NULL, NULL, THREAD_SERIALIZED, &provided);
    if (code != MPI_SUCCESS) return fail_mpi(code, "MPI_Init_thread");
    finalize_at_exit = api->finalize;
    atexit(finalize);
    return MOET_OK;
}

moet_status moet_ep_comm_create_mpi(int32_t rank, int32_t ranks, int32_t timeout_ms, moet_ep_comm **comm)
{
    int own_rank = -1, own_ranks = 0;
    /* Its plug-ins look for its symbols, so it must be visible to all. */
    for (int32_t i = 0; sonames[i]; i++) {
        if (dlopen(sonames[i], RTLD_NOW | RTLD_GLOBAL)) break;
    }
    moet_ep_comm *result = calloc(1, sizeof *result);
    mpi_comm *impl = calloc(1, sizeof *impl);
    moet_status status = result && impl ? MOET_OK : moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    if (status == MOET_OK) status = moet_library_bind(sonames, symbols, MOET_COUNT_OF(symbols), &impl->api, NULL);
    if (status == MOET_NOT_FOUND)
        status = moet_fail(status, "net mpi needs OpenMPI (apt install openmpi-bin), or choose net socket: %.160s",
                           moet_last_error());
    if (status == MOET_OK) status = initialise(&impl->api);
    int code = MPI_SUCCESS;
    if (status == MOET_OK) {
        code = impl->api.comm_dup(impl->api.world, &impl->world);
        if (code == MPI_SUCCESS) code = impl->api.comm_set_errhandler(impl->world, impl->api.errors_return);
        if (code == MPI_SUCCESS) code = impl->api.comm_rank(impl->world, &own_rank);
        if (code == MPI_SUCCESS) code = impl->api.comm_size(impl->world, &own_ranks);
        if (code != MPI_SUCCESS) status = fail_mpi(code, "MPI_Comm_dup");
    }
    if (status == MOET_OK && (own_rank != rank || own_ranks != ranks))
        status = moet_fail(MOET_MISMATCH, "MPI says rank %d of %d, the options rank %d of %d: start it by mpirun",
                           own_rank, own_ranks, rank, ranks);
    if (status != MOET_OK) {
        free(result);
        free(impl);
        return status;
    }
    *result = (moet_ep_comm){&mpi_table, rank, ranks, timeout_ms, impl};
    *comm = result;
    return MOET_OK;
}

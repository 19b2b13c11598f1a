/* ep_comm_nccl: ep_comm.h over NCCL 2.18 and later, bound at run time; its interface is declared by hand, as its header
 * is not in every toolkit. The communicator is non-blocking, so that no call hangs on a rank that does not come. */
#ifdef MOET_CUDA
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ep_comm.h"
#include "nccl_api.h"

typedef struct nccl_api {
    int (*get_version)(int *version);
    const char *(*error_string)(int result);
    int (*get_unique_id)(nccl_id *id);
    int (*init_rank)(void **comm, int ranks, nccl_id id, int rank, nccl_config *config);
    int (*get_async_error)(void *comm, int *result);
    int (*abort)(void *comm);
    int (*group_start)(void);
    int (*group_end)(void);
    int (*send)(const void *from, size_t count, int type, int peer, void *comm, void *stream);
    int (*recv)(void *to, size_t count, int type, int peer, void *comm, void *stream);
} nccl_api;

static const moet_symbol symbols[] = {
    {"ncclGetVersion", offsetof(nccl_api, get_version), false},
    {"ncclGetErrorString", offsetof(nccl_api, error_string), false},
    {"ncclGetUniqueId", offsetof(nccl_api, get_unique_id), false},
    {"ncclCommInitRankConfig", offsetof(nccl_api, init_rank), false},
    {"ncclCommGetAsyncError", offsetof(nccl_api, get_async_error), false},
    {"ncclCommAbort", offsetof(nccl_api, abort), false},
    {"ncclGroupStart", offsetof(nccl_api, group_start), false},
    {"ncclGroupEnd", offsetof(nccl_api, group_end), false},
    {"ncclSend", offsetof(nccl_api, send), false},
    {"ncclRecv", offsetof(nccl_api, recv), false},
};

typedef struct nccl_comm {
    nccl_api api;
    moet_ep_comm *control;
    void *comm; /* NULL: aborted */
} nccl_comm;

static moet_status fail_nccl(const nccl_comm *impl, int result, const char *what)
{
    return moet_fail(MOET_DEVICE, "NCCL: %s: %s", what, impl->api.error_string(result));
}

/* Until NCCL has done what it began. */
static moet_status settle(moet_ep_comm *comm, int result, const char *what)
{
    nccl_comm *impl = comm->impl;
    const int64_t deadline_ms = moet_ep_now_ms() + comm->timeout_ms;
    for (int32_t turn = 0; result == NCCL_IN_PROGRESS; turn++) {
        const int asked = impl->api.get_async_error(impl->comm, &result);
        if (asked != NCCL_SUCCESS) return fail_nccl(impl, asked, what);
        if (result != NCCL_IN_PROGRESS) break;
        MOET_TRY(impl->control->table->check(impl->control));
        if (moet_ep_now_ms() > deadline_ms)
            return moet_fail(MOET_TIMEOUT, "NCCL: %s did not end within %d ms: a rank does not answer", what,
                             comm->timeout_ms);
        if (turn > 100) usleep(100);
    }
    return result == NCCL_SUCCESS ? MOET_OK : fail_nccl(impl, result, what);
}

static moet_status nccl_exchange(moet_ep_comm *comm, const moet_ep_part *parts, void *stream)
{
    nccl_comm *impl = comm->impl;
    if (!impl->comm) return moet_fail(MOET_INVALID, "NCCL: the communicator was aborted");
    int result = impl->api.group_start();
    for (int32_t i = 0; i < comm->ranks && result == NCCL_SUCCESS; i++) {
        if (i == comm->rank) continue;
        if (parts[i].send_bytes)
            result = impl->api.send(parts[i].send, parts[i].send_bytes, NCCL_INT8, i, impl->comm, stream);
        if (result == NCCL_SUCCESS && parts[i].recv_bytes)
            result = impl->api.recv(parts[i].recv, parts[i].recv_bytes, NCCL_INT8, i, impl->comm, stream);
        if (result == NCCL_IN_PROGRESS) result = NCCL_SUCCESS; /* the group's end tells */
    }
    const int ended = impl->api.group_end();
    return settle(comm, result == NCCL_SUCCESS ? ended : result, "sends and receives");
}

static moet_status nccl_check(moet_ep_comm *comm)
{
    nccl_comm *impl = comm->impl;
    int result = NCCL_SUCCESS;
    if (!impl->comm) return moet_fail(MOET_LOST, "NCCL: the communicator was aborted");
    const int asked = impl->api.get_async_error(impl->comm, &result);
    if (asked != NCCL_SUCCESS) return fail_nccl(impl, asked, "asking for errors");
    return result == NCCL_SUCCESS || result == NCCL_IN_PROGRESS ? MOET_OK : fail_nccl(impl, result, "communication");
}

static void nccl_abort(moet_ep_comm *comm)
{
    nccl_comm *impl = comm->impl;
    if (impl->comm) impl->api.abort(impl->comm);
    impl->comm = NULL;
}

static void nccl_destroy(moet_ep_comm *comm)
{
    nccl_abort(comm); /* nothing is under way, and it waits for nobody */
    free(comm->impl);
    free(comm);
}

static const moet_ep_comm_table nccl_table = {.name = "nccl",
                                              .is_host = false,
                                              .exchange = nccl_exchange,
                                              .check = nccl_check,
                                              .abort = nccl_abort,
                                              .destroy = nccl_destroy};

moet_status moet_ep_comm_create_nccl(moet_ep_comm *control, int32_t max_ctas, moet_ep_comm **comm)
{
    static const char *const sonames[] = {"libnccl.so.2", NULL};
    nccl_config config = nccl_config_make(false, max_ctas);
    nccl_id id = {{0}};
    char text[64];
    int version = 0;
    moet_ep_comm *result = calloc(1, sizeof *result);
    nccl_comm *impl = calloc(1, sizeof *impl);
    if (!result || !impl) {
        free(result);
        free(impl);
        return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    }
    *result = (moet_ep_comm){&nccl_table, control->rank, control->ranks, control->timeout_ms, impl};
    impl->control = control;
    moet_status status = moet_library_bind(sonames, symbols, MOET_COUNT_OF(symbols), &impl->api, NULL);
    if (status == MOET_OK) impl->api.get_version(&version);
    snprintf(text, sizeof text, "NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    if (status == MOET_OK && control->rank == 0) {
        const int got = impl->api.get_unique_id(&id);
        if (got != NCCL_SUCCESS) status = fail_nccl(impl, got, "making an id");
    }
    status = moet_ep_comm_agree(control, status, "libnccl", text, &id, sizeof id);
    if (status == MOET_OK)
        status = settle(result, impl->api.init_rank(&impl->comm, control->ranks, id, control->rank, &config),
                        "creating a communicator");
    if (status != MOET_OK) {
        nccl_destroy(result);
        return status;
    }
    *comm = result;
    return MOET_OK;
}
#else
typedef int moet_ep_comm_nccl_is_left_out; /* ISO C wants a declaration in every file */
#endif

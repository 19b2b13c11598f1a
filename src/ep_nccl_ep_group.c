/* ep_nccl_ep_group: binds NCCL and NCCL EP, and makes a group of the layer's ranks. The library is made for processes
 * that end with it: it ends them itself on most errors, and waits for other ranks without a clock. So what can be known
 * before is checked here, and what waits runs on a thread that is waited for no longer than timeout_ms. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ep_nccl_ep.h"

enum {
    GRACE_MS = 500,
    LEAST_NCCL = 22907, /* has all that the library links to, and nccl_properties */
    LEAST_LIBRARY = 200,
    MOST_SMS = 16,            /* 0.2 has a barrier for each of so many blocks */
    EXPERTS_STEP = 4,         /* of a host: their weights are copied by 16 bytes */
    MOST_LOCAL_PERMUTE = 256, /* experts of a rank, expert_major without windows */
    MOST_SLOTS = 1 << 22,     /* expert_major: its maps have so many bits for a slot */
    MOST_COPIES = 8,          /* expert_major with windows: buffers for rows of one token on a rank */
    BUFFERS = 10,             /* the same: rows in shared memory, those and two to write from */
    MOST_SHARED = 227 << 10,  /* of a block, Hopper and Blackwell */
};

/* ---- parameters ---- */

/* A row for each. Texts stand for 0, 1, ... */
static const struct {
    const char *name;
    const char *const *texts;
    size_t offset;
    int32_t low, high, given; /* given: where nothing is said */
    bool is_power;            /* of two */
} rules[] = {
    {"layout", (const char *const[]){"flat", "expert_major", NULL}, offsetof(moet_nccl_ep_parameters, is_major), 0, 1,
     0, false},
    {"align", NULL, offsetof(moet_nccl_ep_parameters, align), 1, 256, 1, true},
    {"sms", NULL, offsetof(moet_nccl_ep_parameters, sms), 0, MOST_SMS, 0, false},
    {"channels", NULL, offsetof(moet_nccl_ep_parameters, channels), 0, 64, 0, false},
    {"windows", (const char *const[]){"off", "on", NULL}, offsetof(moet_nccl_ep_parameters, windows), 0, 1, 1, false},
};

/* The value of a rule, or -1. */
static int32_t value_of(int32_t rule, const char *text, size_t length)
{
    for (int32_t i = 0; rules[rule].texts && rules[rule].texts[i]; i++) {
        if (strlen(rules[rule].texts[i]) == length && strncmp(rules[rule].texts[i], text, length) == 0) return i;
    }
    if (rules[rule].texts || length == 0 || length > 5 || strspn(text, "0123456789") < length) return -1;
    return (int32_t)strtol(text, NULL, 10);
}

static moet_status set(const char *text, size_t length, moet_nccl_ep_parameters *result)
{
    const size_t name = strcspn(text, "=");
    for (int32_t i = 0; i < MOET_COUNT_OF(rules) && name < length; i++) {
        if (strlen(rules[i].name) != name || strncmp(rules[i].name, text, name) != 0) continue;
        const int32_t value = value_of(i, text + name + 1, length - name - 1);
        if (value < rules[i].low || value > rules[i].high || (rules[i].is_power && (value & (value - 1)))) break;
        memcpy((char *)result + rules[i].offset, &value, sizeof value);
        return MOET_OK;
    }
    return moet_fail(MOET_INVALID,
                     "transport nccl_ep: no parameter '%.*s': layout=flat or expert_major, align=1 to 256 (a power of "
                     "two), sms=0 to %d, channels=0 to 64 (0: the library's choice), windows=on or off",
                     (int)length, text, MOST_SMS);
}

moet_status moet_nccl_ep_parameters_of(const moet_ep_options *o, moet_nccl_ep_parameters *parameters)
{
    moet_nccl_ep_parameters p = {0};
    for (int32_t i = 0; i < MOET_COUNT_OF(rules); i++)
        memcpy((char *)&p + rules[i].offset, &rules[i].given, sizeof rules[i].given);
    const char *at = o->transport + strcspn(o->transport, ":");
    while (*at == ':') {
        const size_t length = strcspn(++at, ":");
        MOET_TRY(set(at, length, &p));
        at += length;
    }
    if (p.sms == 0 && o->comm_sms > 0) p.sms = o->comm_sms < MOST_SMS ? o->comm_sms : MOST_SMS;
    *parameters = p;
    return MOET_OK;
}

int64_t moet_nccl_ep_slots(const moet_ep *ep, const moet_nccl_ep_parameters *p)
{
    return p->is_major ? ep->max_rows + (int64_t)ep->local.experts * (p->align - 1) : ep->recv_rows;
}

/* ---- steps that wait ---- */

typedef struct job {
    moet_nccl_ep *n;
    moet_nccl_ep_step step;
    void *arg;
    moet_status status;
    char why[512];
    atomic_bool is_done;
} job;

static void *job_run(void *arg)
{
    job *j = arg;
    moet_device *device = j->n->ep->device;
    j->status = device->backend->activate(device);
    if (j->status == MOET_OK) j->status = j->step(j->n, j->arg);
    if (j->status != MOET_OK) snprintf(j->why, sizeof j->why, "%s", moet_last_error());
    atomic_store(&j->is_done, true);
    return NULL;
}

moet_status moet_nccl_ep_in_time(moet_nccl_ep *n, const char *what, moet_nccl_ep_step step, void *arg)
{
    moet_ep_comm *control = n->ep->control;
    int64_t deadline_ms = moet_ep_now_ms() + control->timeout_ms;
    char why[512] = "";
    pthread_t thread;
    job *j = calloc(1, sizeof *j);
    if (!j) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    *j = (job){.n = n, .step = step, .arg = arg};
    if (pthread_create(&thread, NULL, job_run, j) != 0) {
        free(j);
        return moet_fail(MOET_NO_MEMORY, "NCCL EP: no thread to be had");
    }
    moet_status lost = MOET_OK;
    while (!atomic_load(&j->is_done) && moet_ep_now_ms() <= deadline_ms) {
        if (lost == MOET_OK && (lost = control->table->check(control)) != MOET_OK) {
            snprintf(why, sizeof why, "%s", moet_last_error());
            deadline_ms = moet_ep_now_ms() + GRACE_MS; /* it may have failed as this one is about to */
        }
        usleep(200);
    }
    if (!atomic_load(&j->is_done)) {
        n->ep->device->is_stuck = true;
        pthread_detach(thread);
        if (lost != MOET_OK) return moet_fail(lost, "%s", why);
        return moet_fail(MOET_TIMEOUT, "NCCL EP: %s did not end within %d ms: a rank does not answer", what,
                         control->timeout_ms);
    }
    pthread_join(thread, NULL);
    const moet_status status = j->status == MOET_OK ? MOET_OK : moet_fail(j->status, "%s", j->why);
    free(j);
    return status;
}

moet_status moet_nccl_ep_fail(const moet_nccl_ep *n, int result, const char *what)
{
    if (n->group) n->ep->device->is_stuck = true;
    return moet_fail(MOET_DEVICE, "NCCL EP: %s: %s", what, n->nccl.error_string(result));
}

/* ---- the communicator ---- */

static moet_status comm_exchange(moet_ep_comm *comm, const moet_ep_part *parts, void *stream)
{
    (void)comm, (void)parts, (void)stream;
    return moet_fail(MOET_UNSUPPORTED, "NCCL EP moves tokens' rows only");
}

static moet_status comm_check(moet_ep_comm *comm)
{
    const moet_nccl_ep *n = comm->impl;
    int result = NCCL_SUCCESS;
    const int asked = n->nccl.get_async_error(n->comm, &result);
    if (asked != NCCL_SUCCESS) return moet_nccl_ep_fail(n, asked, "asking for errors");
    return result == NCCL_SUCCESS ? MOET_OK : moet_nccl_ep_fail(n, result, "communication");
}

/* ncclCommAbort would end NCCL's kernels, but not the library's, and wait for the device. */
static void comm_abort(moet_ep_comm *comm)
{
    moet_nccl_ep *n = comm->impl;
    n->ep->device->is_stuck = true;
}

static void comm_destroy(moet_ep_comm *comm)
{
    moet_nccl_ep *n = comm->impl;
    if (!n->ep->is_broken) { /* both wait for the other ranks */
        n->library.group_destroy(n->group);
        n->nccl.destroy(n->comm);
    }
    free(n);
    free(comm);
}

static const moet_ep_comm_table comm_table = {.name = "libnccl_ep",
                                              .is_host = false,
                                              .exchange = comm_exchange,
                                              .check = comm_check,
                                              .abort = comm_abort,
                                              .destroy = comm_destroy};

/* ---- creation ---- */

static const moet_symbol nccl_symbols[] = {
    {"ncclGetVersion", offsetof(moet_nccl_api, get_version), false},
    {"ncclGetErrorString", offsetof(moet_nccl_api, error_string), false},
    {"ncclGetUniqueId", offsetof(moet_nccl_api, get_unique_id), false},
    {"ncclCommInitRankConfig", offsetof(moet_nccl_api, init_rank), false},
    {"ncclCommGetAsyncError", offsetof(moet_nccl_api, get_async_error), false},
    {"ncclCommDestroy", offsetof(moet_nccl_api, destroy), false},
    /* Of newer versions; an old one is told by its number. */
    {"ncclCommQueryProperties", offsetof(moet_nccl_api, query_properties), true},
    {"ncclMemAlloc", offsetof(moet_nccl_api, memory_alloc), true},
    {"ncclMemFree", offsetof(moet_nccl_api, memory_free), true},
    {"ncclCommWindowRegister", offsetof(moet_nccl_api, window_register), true},
    {"ncclCommWindowDeregister", offsetof(moet_nccl_api, window_deregister), true},
};

static const moet_symbol library_symbols[] = {
    {"ncclEpGetVersion", offsetof(moet_nccl_ep_api, get_version), false},
    {"ncclEpCreateGroup", offsetof(moet_nccl_ep_api, group_create), false},
    {"ncclEpGroupDestroy", offsetof(moet_nccl_ep_api, group_destroy), false},
    {"ncclEpInitHandle", offsetof(moet_nccl_ep_api, handle_create), false},
    {"ncclEpUpdateHandle", offsetof(moet_nccl_ep_api, handle_update), false},
    {"ncclEpHandleDestroy", offsetof(moet_nccl_ep_api, handle_destroy), false},
    {"ncclEpDispatch", offsetof(moet_nccl_ep_api, dispatch), false},
    {"ncclEpCombine", offsetof(moet_nccl_ep_api, combine), false},
    {"ncclEpTakesHostMemory", offsetof(moet_nccl_ep_api, takes_host_memory), true},
};

/* versions: "NCCL 2.30.7, NCCL EP 0.2.0" */
static moet_status bind(moet_nccl_ep *n, char versions[MOET_EP_NAME_SIZE])
{
    static const char *const nccl_names[] = {"libnccl.so.2", NULL};
    static const char *const library_names[] = {"libnccl_ep.so.0", "libnccl_ep.so", NULL};
    int nccl = 0, library = 0;
    MOET_TRY(moet_library_bind(nccl_names, nccl_symbols, MOET_COUNT_OF(nccl_symbols), &n->nccl, NULL));
    n->nccl.get_version(&nccl);
    if (nccl < LEAST_NCCL || !n->nccl.query_properties || !n->nccl.memory_alloc || !n->nccl.memory_free ||
        !n->nccl.window_register || !n->nccl.window_deregister)
        return moet_fail(MOET_UNSUPPORTED, "libnccl.so.2 is NCCL %d.%d.%d, 2.29.7 or later is needed", nccl / 10000,
                         nccl / 100 % 100, nccl % 100);
    MOET_TRY(moet_library_bind(library_names, library_symbols, MOET_COUNT_OF(library_symbols), &n->library, NULL));
    n->library.get_version(&library);
    if (library < LEAST_LIBRARY)
        return moet_fail(MOET_UNSUPPORTED, "libnccl_ep is NCCL EP %d.%d.%d, 0.2.0 or later is needed", library / 10000,
                         library / 100 % 100, library % 100);
    if (strcmp(n->ep->device->backend->name, "cuda") != 0 && !n->library.takes_host_memory)
        return moet_fail(MOET_UNSUPPORTED, "NCCL EP runs on CUDA devices only");
    snprintf(versions, MOET_EP_NAME_SIZE, "NCCL %d.%d.%d and NCCL EP %d.%d.%d", nccl / 10000, nccl / 100 % 100,
             nccl % 100, library / 10000, library / 100 % 100, library % 100);
    return MOET_OK;
}

/* local_dup has MOST_COPIES rows with a weight for each expert of the host, local_reduce BUFFERS rows. */
static bool fits_shared(const moet_ep *ep, int32_t teams)
{
    const int64_t row = 2 * (int64_t)ep->problem.hidden, weights = 4 * (int64_t)(ep->problem.experts / teams);
    const int64_t barriers = MOST_COPIES * 16 + 8, copied = MOST_COPIES * (row + weights), summed = BUFFERS * row;
    return (copied > summed ? copied : summed) + barriers <= MOST_SHARED;
}

/* What the library would end the process for. */
static moet_status check_place(const moet_nccl_ep *n)
{
    const moet_ep *ep = n->ep;
    nccl_properties at = {.size = sizeof at, .magic = NCCL_MAGIC, .version = LEAST_NCCL};
    const int result = n->nccl.query_properties(n->comm, &at);
    if (result != NCCL_SUCCESS) return moet_nccl_ep_fail(n, result, "asking for the communicator's properties");
    if (!at.has_device_api)
        return moet_fail(MOET_UNSUPPORTED,
                         "NCCL EP: NCCL offers no loads and stores to other GPUs here: the GPUs of a host must reach "
                         "each other (nvidia-smi topo -p2p r), and NCCL_CUMEM_ENABLE not be 0");
    if (at.lsa_teams > 1 && at.railed_gin_type == 0)
        return moet_fail(MOET_UNSUPPORTED,
                         "NCCL EP: %d groups of GPUs that reach each other need NCCL's GPU-initiated network (GIN), "
                         "which is not there",
                         at.lsa_teams);
    const int32_t teams = at.lsa_teams > 0 ? at.lsa_teams : 1;
    if (ep->problem.experts / teams % EXPERTS_STEP)
        return moet_fail(MOET_UNSUPPORTED, "NCCL EP: %d experts of a host are no multiple of %d",
                         ep->problem.experts / teams, EXPERTS_STEP);
    if (!n->parameters.is_major) return MOET_OK;
    const int32_t experts = ep->local.experts;
    if (!n->parameters.windows && experts > MOST_LOCAL_PERMUTE)
        return moet_fail(MOET_UNSUPPORTED,
                         "NCCL EP: layout expert_major with windows=off serves up to %d experts a rank, not %d",
                         MOST_LOCAL_PERMUTE, experts);
    if (n->parameters.windows && (experts & (experts - 1)))
        return moet_fail(MOET_UNSUPPORTED,
                         "NCCL EP: layout expert_major with windows=on wants a power of two of experts a rank, not %d",
                         experts);
    if (n->parameters.windows && ep->width > MOST_COPIES)
        return moet_fail(MOET_UNSUPPORTED,
                         "NCCL EP: layout expert_major with windows=on serves up to %d experts of a token on a rank, "
                         "not %d",
                         MOST_COPIES, ep->width);
    if (n->parameters.windows && !fits_shared(ep, teams))
        return moet_fail(MOET_UNSUPPORTED,
                         "NCCL EP: layout expert_major with windows=on keeps rows in shared memory, where those of "
                         "hidden %d and %d experts of a host do not fit",
                         ep->problem.hidden, ep->problem.experts / teams);
    if (moet_nccl_ep_slots(ep, &n->parameters) >= MOST_SLOTS)
        return moet_fail(
            MOET_UNSUPPORTED,
            "NCCL EP: layout expert_major serves up to %d rows a rank: fewer tokens a run, more chunks, or "
            "layout flat",
            MOST_SLOTS - 1);
    return MOET_OK;
}

static moet_status create_group(moet_nccl_ep *n, void *arg)
{
    const moet_ep *ep = n->ep;
    nccl_config nccl = nccl_config_make(true, 0); /* the library takes a blocking communicator's results only */
    const nccl_ep_config config = {.head = {sizeof config, NCCL_EP_MAGIC},
                                   .version = NCCL_EP_INTERFACE,
                                   .algorithm = NCCL_EP_HIGH_THROUGHPUT,
                                   .experts = (unsigned)ep->problem.experts,
                                   .max_tokens = (unsigned)ep->chunk_tokens,
                                   .max_recv_rows = (unsigned)moet_nccl_ep_slots(ep, &n->parameters),
                                   .token_bytes = (unsigned)ep->problem.hidden * 2,
                                   .channels = (unsigned)n->parameters.channels,
                                   .sms = (unsigned)n->parameters.sms,
                                   .timeout_ns = (uint64_t)ep->options.timeout_ms * 1000000,
                                   .zero_copy = n->parameters.windows ? NCCL_EP_ZERO_COPY_ON : NCCL_EP_ZERO_COPY_OFF};
    (void)arg;
    int result = n->nccl.init_rank(&n->comm, ep->options.ranks, n->id, ep->options.rank, &nccl);
    if (result != NCCL_SUCCESS) return moet_nccl_ep_fail(n, result, "creating a communicator");
    const moet_status fit = check_place(n);
    if (fit != MOET_OK) { /* on all ranks */
        n->nccl.destroy(n->comm);
        return fit;
    }
    void *group = NULL;
    result = n->library.group_create(&group, n->comm, &config);
    if (result != NCCL_SUCCESS) return moet_nccl_ep_fail(n, result, "creating a group");
    n->group = group;
    return MOET_OK;
}

moet_status moet_ep_comm_create_nccl_ep(moet_ep *ep, moet_ep_comm **comm)
{
    moet_ep_comm *control = ep->control, *result = calloc(1, sizeof *result);
    moet_nccl_ep *n = calloc(1, sizeof *n);
    char versions[MOET_EP_NAME_SIZE] = "", why[512];
    if (!result || !n) {
        free(result);
        free(n);
        return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    }
    *result = (moet_ep_comm){&comm_table, control->rank, control->ranks, control->timeout_ms, n};
    n->ep = ep;
    moet_status status = moet_nccl_ep_parameters_of(&ep->options, &n->parameters);
    if (status == MOET_OK) status = bind(n, versions);
    if (status == MOET_OK && control->rank == 0) {
        const int got = n->nccl.get_unique_id(&n->id);
        if (got != NCCL_SUCCESS) status = moet_nccl_ep_fail(n, got, "making an id");
    }
    if (status != MOET_OK) {
        snprintf(why, sizeof why, "%s", moet_last_error());
        status = moet_fail(status, "transport nccl_ep: %.400s (docs/nccl_ep.md says what it needs)", why);
    }
    status = moet_ep_comm_agree(control, status, "transport nccl_ep", versions, &n->id, sizeof n->id);
    if (status == MOET_OK) status = moet_nccl_ep_in_time(n, "creating a group", create_group, NULL);
    if (status == MOET_OK) {
        *comm = result;
        return MOET_OK;
    }
    if (ep->device->is_stuck) return status; /* a thread has them */
    free(result);
    free(n);
    return status;
}

/* ep_nccl_ep: rows by NCCL EP, NVIDIA's library for expert parallelism, in its high-throughput mode (docs/nccl_ep.md).
 * A token's row crosses to a rank once, and sums come back, which the library adds up. Received rows and results lie in
 * a window that all ranks of a host reach, so that nothing is copied in between. How many rows there are only the
 * device knows.
 *
 *   flat           rows as they come, with their local experts and weights: moet_ffn as in every transport
 *   expert_major   a row for each of its experts, grouped by expert: to moet_ffn, rows of one choice each
 *
 * The library waits for other ranks on the device without a clock. After an error the device is left alone
 * (moet_device.is_stuck), and only the end of the process ends its work. */
#include <stdio.h>
#include <stdlib.h>

#include "ep_nccl_ep.h"

typedef struct chunk_memory {
    void *handle, *window;
    void *first_stream; /* of launches that compile */
    char *rows_memory;  /* recv and y: of the window, or plain memory */
    size_t rows_bytes;
    int64_t slots;
    int32_t *ids;         /* [T, k] without gaps */
    float *weights;       /* [T, k] */
    uint16_t *rows;       /* [T, H]: x or out, where they have gaps */
    void *recv_ids;       /* flat: int64 [slots, k]; expert_major: int32 [slots] */
    float *recv_weights;  /* [slots, k], or [slots] */
    int32_t *first;       /* expert_major: [L] slot where each expert's rows begin */
    int32_t *rows_counts; /* expert_major: [L] and their number */
} chunk_memory;

static moet_nccl_ep *group_of(const moet_ep *ep) { return ep->data->impl; }
static bool is_major(const moet_ep *ep) { return group_of(ep)->parameters.is_major; }
static int64_t recv_choices(const moet_ep *ep) { return is_major(ep) ? 1 : ep->options.choices; }

static moet_status check(const moet_problem *problem, const moet_ep_options *o)
{
    moet_nccl_ep_parameters p;
    MOET_TRY(moet_nccl_ep_parameters_of(o, &p));
    if (o->returns == MOET_EP_RETURNS_ROWS)
        return moet_fail(MOET_UNSUPPORTED, "transport nccl_ep gives back sums only, which the library adds up: "
                                           "transport exchange and lsa give back rows");
    if (p.is_major && problem->prob == MOET_PROB_COMBINE)
        return moet_fail(MOET_UNSUPPORTED, "transport nccl_ep: layout expert_major would round weighted rows before "
                                           "they are added up: prob advance or none, or layout flat");
    return MOET_OK;
}

/* The library copies its map of slots by 16 bytes and asserts that max_tokens times a row of it (an int32 for each rank
 * of a host, or for each choice) is so many; a run may have any number of tokens below. */
static void size(moet_ep *ep)
{
    enum { TOKENS_STEP = 4 };
    ep->chunk_tokens = (ep->chunk_tokens + TOKENS_STEP - 1) / TOKENS_STEP * TOKENS_STEP;
    ep->recv_rows = ep->chunk_tokens * ep->options.ranks;
}

static void plan_experts(const moet_ep *ep, moet_plan_options *plan)
{
    moet_nccl_ep_parameters p;
    if (moet_nccl_ep_parameters_of(&ep->options, &p) != MOET_OK || !p.is_major) return;
    plan->max_tokens = plan->max_rows = moet_nccl_ep_slots(ep, &p);
    plan->choices = 1;
}

/* ---- calls of the library ---- */

static nccl_ep_tensor tensor_of(const void *data, int type, unsigned dims, size_t *sizes)
{
    return (nccl_ep_tensor){.head = {sizeof(nccl_ep_tensor), NCCL_EP_TENSOR_MAGIC},
                            .dims = dims,
                            .type = type,
                            .data = (void *)data,
                            .sizes = sizes};
}

/* Rows [slots, H] of recv or y. */
static nccl_ep_tensor slots_tensor(const chunk_memory *m, const void *data, size_t *sizes)
{
    nccl_ep_tensor t = tensor_of(data, NCCL_BFLOAT16, 2, sizes);
    t.window = m->window;
    t.window_offset = m->window ? (uint64_t)((const char *)data - m->rows_memory) : 0;
    return t;
}

static moet_status route(const moet_ep *ep, const moet_ep_chunk *c, void *stream)
{
    const moet_nccl_ep *n = group_of(ep);
    const chunk_memory *m = c->own;
    size_t ids_sizes[] = {(size_t)c->pass.tokens, (size_t)ep->options.choices};
    size_t one[] = {1}, experts[] = {(size_t)ep->local.experts};
    const nccl_ep_tensor ids = tensor_of(m->ids, NCCL_INT32, 2, ids_sizes);
    nccl_ep_tensor received = tensor_of(c->pass.recv_tokens, NCCL_INT32, 1, one);
    nccl_ep_tensor counts = tensor_of(m->rows_counts, NCCL_INT32, 1, experts);
    nccl_ep_tensor first = tensor_of(m->first, NCCL_INT32, 1, experts);
    const nccl_ep_layout_info info = {.head = {sizeof info, NCCL_EP_MAGIC},
                                      .expert_counts = is_major(ep) ? &counts : NULL,
                                      .expert_first = is_major(ep) ? &first : NULL,
                                      .recv_rows = &received,
                                      .id_kind = NCCL_EP_LOCAL_IDS};
    const int result = n->library.handle_update(m->handle, &ids, &info, stream);
    return result == NCCL_SUCCESS ? MOET_OK : moet_nccl_ep_fail(n, result, "routing");
}

static moet_status send(const moet_ep *ep, const moet_ep_chunk *c, const void *x, void *stream)
{
    const moet_nccl_ep *n = group_of(ep);
    const chunk_memory *m = c->own;
    const size_t H = (size_t)ep->problem.hidden, k = (size_t)ep->options.choices;
    size_t x_sizes[] = {(size_t)c->pass.tokens, H}, choice_sizes[] = {(size_t)c->pass.tokens, k};
    size_t recv_sizes[] = {(size_t)m->slots, H}, recv_choice_sizes[] = {(size_t)m->slots, k};
    nccl_ep_tensor tokens = tensor_of(x, NCCL_BFLOAT16, 2, x_sizes);
    nccl_ep_tensor weights = tensor_of(m->weights, NCCL_FLOAT32, 2, choice_sizes);
    nccl_ep_tensor recv = slots_tensor(m, c->recv, recv_sizes);
    nccl_ep_tensor recv_weights = tensor_of(m->recv_weights, NCCL_FLOAT32, is_major(ep) ? 1 : 2, recv_choice_sizes);
    nccl_ep_tensor recv_ids = tensor_of(m->recv_ids, NCCL_INT64, 2, recv_choice_sizes);
    const nccl_ep_dispatch_in in = {.head = {sizeof in, NCCL_EP_MAGIC}, .tokens = &tokens, .weights = &weights};
    const nccl_ep_dispatch_out out = {.head = {sizeof out, NCCL_EP_MAGIC},
                                      .tokens = &recv,
                                      .weights = &recv_weights,
                                      .ids = is_major(ep) ? NULL : &recv_ids};
    const nccl_ep_layout_info info = {.head = {sizeof info, NCCL_EP_MAGIC}, .id_kind = NCCL_EP_LOCAL_IDS};
    const int result = n->library.dispatch(m->handle, &in, &out, &info, NULL, stream);
    return result == NCCL_SUCCESS ? MOET_OK : moet_nccl_ep_fail(n, result, "dispatch");
}

static moet_status bring_back(const moet_ep *ep, const moet_ep_chunk *c, void *to, void *stream)
{
    const moet_nccl_ep *n = group_of(ep);
    const chunk_memory *m = c->own;
    const size_t H = (size_t)ep->problem.hidden;
    size_t y_sizes[] = {(size_t)m->slots, H}, out_sizes[] = {(size_t)c->pass.tokens, H};
    nccl_ep_tensor y = slots_tensor(m, c->y, y_sizes);
    nccl_ep_tensor tokens = tensor_of(to, NCCL_BFLOAT16, 2, out_sizes);
    const nccl_ep_combine_in in = {.head = {sizeof in, NCCL_EP_MAGIC}, .tokens = &y};
    const nccl_ep_combine_out out = {.head = {sizeof out, NCCL_EP_MAGIC}, .tokens = &tokens};
    const int result = n->library.combine(m->handle, &in, &out, NULL, stream);
    return result == NCCL_SUCCESS ? MOET_OK : moet_nccl_ep_fail(n, result, "combine");
}

/* ---- a chunk ---- */

static moet_status open_memory(moet_ep *ep, moet_ep_chunk *c, chunk_memory *m)
{
    const moet_nccl_ep *n = group_of(ep);
    const size_t T = (size_t)ep->chunk_tokens, k = (size_t)ep->options.choices, S = (size_t)m->slots;
    const size_t L = (size_t)ep->local.experts, H2 = (size_t)ep->problem.hidden * 2;
    const size_t recv = moet_ep_put(&m->rows_bytes, S * H2), y = moet_ep_put(&m->rows_bytes, S * H2);
    void *memory = NULL;
    if (n->parameters.windows) {
        const int result = n->nccl.memory_alloc(&memory, m->rows_bytes);
        if (result != NCCL_SUCCESS)
            return moet_fail(MOET_NO_DEVICE_MEMORY, "NCCL EP: no %zu bytes for a window: %s", m->rows_bytes,
                             n->nccl.error_string(result));
    } else {
        MOET_TRY(ep->device->backend->alloc(ep->device, m->rows_bytes, &memory));
    }
    ep->memory_bytes += m->rows_bytes;
    m->rows_memory = memory;
    c->recv = (uint8_t *)memory + recv;
    c->y = (uint8_t *)memory + y;

    size_t bytes = 0;
    const size_t ids = moet_ep_put(&bytes, T * k * 4), weights = moet_ep_put(&bytes, T * k * 4);
    const size_t rows = moet_ep_put(&bytes, T * H2);
    const size_t recv_ids = moet_ep_put(&bytes, S * (is_major(ep) ? 4 : 8 * k));
    const size_t recv_weights = moet_ep_put(&bytes, S * (size_t)recv_choices(ep) * 4);
    const size_t first = moet_ep_put(&bytes, L * 4), counts = moet_ep_put(&bytes, L * 4);
    MOET_TRY(moet_ep_alloc(ep, bytes, &c->memory));
    char *at = c->memory;
    m->ids = (void *)(at + ids);
    m->weights = (void *)(at + weights);
    m->rows = (void *)(at + rows);
    m->recv_ids = at + recv_ids;
    m->recv_weights = (void *)(at + recv_weights);
    m->first = (void *)(at + first);
    m->rows_counts = (void *)(at + counts);
    return MOET_OK;
}

/* With all ranks; on a thread. */
static moet_status open_handle(moet_nccl_ep *n, void *arg)
{
    chunk_memory *m = arg;
    const moet_nccl_ep_parameters *p = &n->parameters;
    const nccl_ep_handle_config config = {.head = {sizeof config, NCCL_EP_MAGIC}, .alignment = (size_t)p->align};
    if (p->windows) {
        const int result =
            n->nccl.window_register(n->comm, m->rows_memory, m->rows_bytes, &m->window, NCCL_WINDOW_SYMMETRIC);
        if (result != NCCL_SUCCESS) return moet_nccl_ep_fail(n, result, "registering a window");
        if (!m->window)
            return moet_fail(MOET_UNSUPPORTED, "NCCL EP: NCCL makes no window here; nccl_ep:windows=off needs none");
    }
    const int result = n->library.handle_create(&m->handle, n->group, p->is_major ? NCCL_EP_EXPERT_MAJOR : NCCL_EP_FLAT,
                                                &config, n->ep->options.choices, NULL);
    return result == NCCL_SUCCESS ? MOET_OK : moet_nccl_ep_fail(n, result, "creating a handle");
}

/* Once without tokens. With windows=off the library waits in it for counts of the other ranks; on a thread. */
static moet_status launch_first(moet_nccl_ep *n, void *arg)
{
    moet_ep_chunk *c = arg;
    const chunk_memory *m = c->own;
    c->pass.tokens = 0;
    MOET_TRY(route(n->ep, c, m->first_stream));
    MOET_TRY(send(n->ep, c, m->rows, m->first_stream));
    return bring_back(n->ep, c, m->rows, m->first_stream);
}

/* The library compiles its kernels when they are first launched, which takes seconds and which a capture would not
 * bear. */
static moet_status compile(moet_ep *ep, moet_ep_chunk *c, chunk_memory *m)
{
    const moet_backend *backend = ep->device->backend;
    char why[512];
    MOET_TRY(backend->stream_create(ep->device, &m->first_stream));
    moet_status status = moet_nccl_ep_in_time(group_of(ep), "the first launch", launch_first, c);
    if (status != MOET_OK && status != MOET_LOST) {
        snprintf(why, sizeof why, "%s", moet_last_error());
        status =
            moet_fail(status, "%.400s; it compiles its kernels by nvcc (docs/nccl_ep.md says how it finds it)", why);
    }
    status = moet_ep_comm_agree(ep->control, status, "NCCL EP", "compiled", NULL, 0); /* others may take longer */
    if (status == MOET_OK)
        status = moet_ep_wait(ep, m->first_stream);
    else
        ep->device->is_stuck = true; /* by the kernels of ranks that could, which wait for the others' */
    if (!ep->device->is_stuck) backend->stream_destroy(ep->device, m->first_stream);
    return status;
}

static moet_status open_chunk(moet_ep *ep, moet_ep_chunk *c)
{
    moet_nccl_ep *n = group_of(ep);
    chunk_memory *m = calloc(1, sizeof *m);
    if (!m) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    c->own = m;
    m->slots = moet_nccl_ep_slots(ep, &n->parameters);
    const moet_status status = open_memory(ep, c, m);
    MOET_TRY(moet_ep_comm_agree(ep->control, status, "NCCL EP", "memory", NULL, 0));
    MOET_TRY(moet_nccl_ep_in_time(n, "registering a window", open_handle, m));
    return compile(ep, c, m);
}

/* After an error other ranks may be gone, and NCCL would wait for them: what it holds goes with the process. */
static void close_chunk(moet_ep *ep, moet_ep_chunk *c)
{
    chunk_memory *m = c->own;
    if (!m) return;
    const moet_nccl_ep *n = group_of(ep);
    if (!ep->is_broken) {
        if (m->handle) n->library.handle_destroy(m->handle);
        if (m->window) n->nccl.window_deregister(n->comm, m->window);
        if (n->parameters.windows) n->nccl.memory_free(m->rows_memory);
    }
    if (!n->parameters.windows) ep->device->backend->free(ep->device, m->rows_memory);
    ep->device->backend->free(ep->device, c->memory);
    free(m);
}

static moet_status dispatch(moet_ep *ep, moet_ep_chunk *c, void *stream)
{
    const moet_ep_stages_table *stages = ep->stages_table;
    const moet_ep_pass *p = &c->pass;
    const chunk_memory *m = c->own;
    const void *x = p->tokens > 0 ? p->x : m->rows;
    MOET_TRY(stages->choices(ep->stages, p, m->ids, m->weights, stream));
    MOET_TRY(route(ep, c, stream));
    if (p->tokens > 0 && p->x_stride != p->hidden) {
        MOET_TRY(stages->copy(ep->stages, m->rows, p->hidden, p->x, p->x_stride, p->tokens, p->hidden, stream));
        x = m->rows;
    }
    MOET_TRY(send(ep, c, x, stream));
    return is_major(ep) ? stages->slots(ep->stages, m->first, ep->local.experts, p->recv_tokens, m->recv_ids,
                                        (int32_t)m->slots, stream)
                        : MOET_OK;
}

static moet_status run_experts(moet_ep *ep, const moet_ep_chunk *c, const moet_ep_args *a, void *stream)
{
    const chunk_memory *m = c->own;
    const moet_ffn_args args = {.x = c->recv,
                                .x_stride = ep->problem.hidden,
                                .ids = m->recv_ids,
                                .ids_int64 = !is_major(ep),
                                .ids_stride = recv_choices(ep),
                                .weights = m->recv_weights,
                                .weights_stride = recv_choices(ep),
                                .up = a->up,
                                .up_bias = a->up_bias,
                                .down = a->down,
                                .down_bias = a->down_bias,
                                .out = c->y,
                                .tokens = m->slots,
                                .device_tokens = c->pass.recv_tokens,
                                .stream = stream};
    return moet_ffn(ep->plan, &args);
}

static moet_status combine(moet_ep *ep, moet_ep_chunk *c, void *stream)
{
    const moet_ep_pass *p = &c->pass;
    const chunk_memory *m = c->own;
    if (p->tokens == 0 || p->out_stride == p->hidden)
        return bring_back(ep, c, p->tokens > 0 ? p->out : m->rows, stream);
    MOET_TRY(bring_back(ep, c, m->rows, stream));
    return ep->stages_table->copy(ep->stages, p->out, p->out_stride, m->rows, p->hidden, p->tokens, p->hidden, stream);
}

const moet_ep_transport moet_ep_transport_nccl_ep = {.name = "nccl_ep",
                                                     .is_graph_safe = true,
                                                     .check = check,
                                                     .size = size,
                                                     .plan_experts = plan_experts,
                                                     .create_data = moet_ep_comm_create_nccl_ep,
                                                     .open = open_chunk,
                                                     .close = close_chunk,
                                                     .dispatch = dispatch,
                                                     .run_experts = run_experts,
                                                     .combine = combine};

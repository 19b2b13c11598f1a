/* ep_run: one run of the expert-parallel layer, and the wait for it. */
#include "ep.h"

#include <stdio.h>
#include <unistd.h>

enum { POLL_SPINS = 1000 }; /* before a wait begins to sleep */

/* ---- run ---- */

static moet_status check_args(const moet_ep *ep, const moet_ep_args *a)
{
    const int64_t H = ep->problem.hidden, k = ep->options.choices;
    if (ep->is_broken) return moet_fail(MOET_INVALID, "moet_ep_run: the layer failed before and can only be destroyed");
    if (a->tokens < 0 || a->tokens > ep->options.max_tokens)
        return moet_fail(MOET_INVALID, "moet_ep_run: %lld tokens, the layer was made for at most %lld",
                         (long long)a->tokens, (long long)ep->options.max_tokens);
    const struct {
        const char *name;
        const void *pointer;
        uintptr_t alignment;
        bool is_needed;
    } pointers[] = {
        {"x", a->x, 16, a->tokens > 0},
        {"ids", a->ids, a->ids_int64 ? 8 : 4, a->tokens > 0},
        {"weights", a->weights, 4, a->tokens > 0 && ep->problem.prob != MOET_PROB_NONE},
        {"out", a->out, 16, a->tokens > 0},
        {"up", a->up, 16, true},
        {"up_bias", a->up_bias, 16, ep->problem.bias},
        {"down", a->down, 16, true},
        {"down_bias", a->down_bias, 16, ep->problem.down_bias},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(pointers); i++) {
        if (pointers[i].is_needed && !pointers[i].pointer)
            return moet_fail(MOET_INVALID, "moet_ep_run: %s is NULL", pointers[i].name);
        if ((uintptr_t)pointers[i].pointer % pointers[i].alignment)
            return moet_fail(MOET_INVALID, "moet_ep_run: %s must be %d-byte aligned", pointers[i].name,
                             (int)pointers[i].alignment);
    }
    const struct {
        const char *name;
        int64_t stride, least, step;
    } strides[] = {{"x_stride", a->x_stride, H, 8},
                   {"ids_stride", a->ids_stride, k, 1},
                   {"weights_stride", a->weights_stride, k, 1},
                   {"out_stride", a->out_stride, H, 8}};
    for (int32_t i = 0; i < MOET_COUNT_OF(strides); i++) {
        if (strides[i].stride != 0 && (strides[i].stride < strides[i].least || strides[i].stride % strides[i].step))
            return moet_fail(MOET_INVALID, "moet_ep_run: %s is %lld, must be 0 or at least %lld and a multiple of %lld",
                             strides[i].name, (long long)strides[i].stride, (long long)strides[i].least,
                             (long long)strides[i].step);
    }
    return MOET_OK;
}

void moet_ep_place_tokens(const moet_ep *ep, moet_ep_chunk *c, const moet_ep_args *a, int32_t index, int32_t count)
{
    const int64_t H = ep->problem.hidden, k = ep->options.choices;
    const int64_t first = a->tokens * index / count, end = a->tokens * (index + 1) / count;
    moet_ep_pass *p = &c->pass;
    p->tokens = (int32_t)(end - first);
    p->x_stride = a->x_stride ? a->x_stride : H;
    p->ids_stride = a->ids_stride ? a->ids_stride : k;
    p->weights_stride = a->weights_stride ? a->weights_stride : k;
    p->out_stride = a->out_stride ? a->out_stride : H;
    p->ids_int64 = a->ids_int64;
    if (p->tokens == 0) return; /* pointers may be NULL then */
    p->x = (const uint16_t *)a->x + first * p->x_stride;
    p->ids = (const char *)a->ids + first * p->ids_stride * (a->ids_int64 ? 8 : 4);
    p->weights = a->weights && ep->problem.prob != MOET_PROB_NONE ? a->weights + first * p->weights_stride : NULL;
    p->out = (uint16_t *)a->out + first * p->out_stride;
}

moet_status moet_ep_experts(moet_ep *ep, const moet_ep_args *a, const moet_ep_input *in, void *stream)
{
    const moet_ep_pass *p = &ep->chunks[0].pass; /* all chunks' rows look alike */
    const moet_ffn_args ffn = {.x = in->x,
                               .x_stride = in->x_stride,
                               .ids = in->tails,
                               .ids_stride = p->tail_bytes / 4,
                               .weights = (const float *)(const void *)(in->tails + 4 * (size_t)p->choices),
                               .weights_stride = p->tail_bytes / 4,
                               .up = a->up,
                               .up_bias = a->up_bias,
                               .down = a->down,
                               .down_bias = a->down_bias,
                               .out = in->sums,
                               .tokens = in->tokens,
                               .device_tokens = in->device_tokens,
                               .stream = stream};
    const moet_ffn_rows rows = {.rows = in->rows, .places = in->places, .none = ep->none};
    return in->sums ? moet_ffn(ep->plan, &ffn) : moet_ffn_rows_run(ep->plan, &ffn, &rows);
}

/* is_alone: measured for itself, and so all of moet_ffn, into what is not used then. */
static moet_status run_experts(moet_ep *ep, moet_ep_chunk *c, const moet_ep_args *a, bool is_alone, void *stream)
{
    const moet_ep_pass *p = &c->pass;
    const bool is_rows = p->returns_rows || (p->is_given && !is_alone);
    if (ep->transport->run_experts) return ep->transport->run_experts(ep, c, a, stream);
    const moet_ep_input input = {.x = c->recv,
                                 .x_stride = p->row_bytes / 2,
                                 .tails = c->tails,
                                 .tokens = ep->recv_rows,
                                 .device_tokens = p->is_bound ? NULL : p->recv_tokens,
                                 .sums = is_rows       ? NULL
                                         : p->is_given ? c->back
                                                       : c->y,
                                 .rows = c->y,
                                 .places = c->places};
    return moet_ep_experts(ep, a, &input, stream);
}

/* One chunk: all on the caller's stream. */
static moet_status run_serial(moet_ep *ep, const moet_ep_args *a, int32_t parts)
{
    moet_ep_chunk *c = &ep->chunks[0];
    if (parts & MOET_EP_DISPATCH) MOET_TRY(ep->transport->dispatch(ep, c, a->stream));
    if (parts & MOET_EP_EXPERTS) MOET_TRY(run_experts(ep, c, a, parts == MOET_EP_EXPERTS, a->stream));
    return parts & MOET_EP_COMBINE ? ep->transport->combine(ep, c, a->stream) : MOET_OK;
}

/* Several: rows travel on a stream of their own, all dispatches first; the experts stay on the caller's. */
static moet_status run_overlapped(moet_ep *ep, const moet_ep_args *a, int32_t parts)
{
    const moet_backend *backend = ep->device->backend;
    const moet_ep_device_table *device = ep->device_table;
    MOET_TRY(backend->event_record(ep->device, ep->begun, a->stream));
    MOET_TRY(device->stream_wait(ep->device, ep->comm_stream, ep->begun));
    for (int32_t i = 0; i < ep->chunk_count; i++) {
        moet_ep_chunk *c = &ep->chunks[i];
        if (parts & MOET_EP_DISPATCH) MOET_TRY(ep->transport->dispatch(ep, c, ep->comm_stream));
        MOET_TRY(backend->event_record(ep->device, c->arrived, ep->comm_stream));
        MOET_TRY(device->stream_wait(ep->device, a->stream, c->arrived));
        if (parts & MOET_EP_EXPERTS) MOET_TRY(run_experts(ep, c, a, parts == MOET_EP_EXPERTS, a->stream));
        MOET_TRY(backend->event_record(ep->device, c->computed, a->stream));
    }
    for (int32_t i = 0; i < ep->chunk_count; i++) {
        moet_ep_chunk *c = &ep->chunks[i];
        MOET_TRY(device->stream_wait(ep->device, ep->comm_stream, c->computed));
        if (parts & MOET_EP_COMBINE) MOET_TRY(ep->transport->combine(ep, c, ep->comm_stream));
    }
    MOET_TRY(backend->event_record(ep->device, ep->ended, ep->comm_stream));
    return device->stream_wait(ep->device, a->stream, ep->ended);
}

moet_status moet_ep_run_parts(moet_ep *ep, const moet_ep_args *args, int32_t parts)
{
    MOET_TRY(check_args(ep, args));
    for (int32_t i = 0; i < ep->chunk_count; i++) moet_ep_place_tokens(ep, &ep->chunks[i], args, i, ep->chunk_count);
    const moet_status status = ep->transport->run     ? ep->transport->run(ep, args, parts)
                               : ep->chunk_count == 1 ? run_serial(ep, args, parts)
                                                      : run_overlapped(ep, args, parts);
    if (status != MOET_OK) ep->is_broken = true;
    return status;
}

moet_status moet_ep_run(moet_ep *ep, const moet_ep_args *args)
{
    MOET_NEED(ep);
    MOET_NEED(args);
    return moet_ep_run_parts(ep, args, MOET_EP_ALL);
}

/* ---- waiting ---- */

/* What a pass wrote down. */
static moet_status failure_of(moet_ep *ep)
{
    const int32_t failure = ep->words[MOET_EP_FAILURE], rank = failure & 0xffff;
    if (failure == 0) return MOET_OK;
    MOET_TRY(ep->control->table->check(ep->control)); /* a rank that ended says more than one that is late */
    if ((failure & ~0xffff) == MOET_EP_FAILED_ROUTING)
        return moet_fail(MOET_MISMATCH, "moet_ep: a graph that keeps its counts was replayed with another routing: "
                                        "capture it again, or choose a graph-safe transport");
    return moet_fail(MOET_TIMEOUT, "moet_ep: rank %d waited %d ms for rank %d, which does not answer", ep->options.rank,
                     ep->options.timeout_ms, rank);
}

moet_status moet_ep_wait(moet_ep *ep, void *stream)
{
    MOET_NEED(ep);
    const int64_t deadline_ms = moet_ep_now_ms() + ep->options.timeout_ms;
    moet_status status = MOET_OK;
    bool is_done = false;
    for (int64_t spins = 0; status == MOET_OK && !is_done; spins++) {
        status = ep->device_table->stream_is_done(ep->device, stream, &is_done);
        if (status != MOET_OK || is_done) break;
        status = ep->data->table->check(ep->data);
        if (status == MOET_OK) status = ep->control->table->check(ep->control);
        if (status == MOET_OK && !ep->words[MOET_EP_FAILURE] && moet_ep_now_ms() > deadline_ms)
            status = moet_fail(MOET_TIMEOUT, "moet_ep: rank %d waited %d ms for its device and the other ranks",
                               ep->options.rank, ep->options.timeout_ms);
        if (spins > POLL_SPINS) usleep(50);
    }
    if (status != MOET_OK && ep->data) { /* what hangs on the device is let go */
        char why[512];
        snprintf(why, sizeof why, "%s", moet_last_error());
        ep->data->table->abort(ep->data);
        status = moet_fail(status, "%s", why);
    }
    if (status == MOET_OK) status = failure_of(ep);
    if (status != MOET_OK) ep->is_broken = true;
    return status;
}

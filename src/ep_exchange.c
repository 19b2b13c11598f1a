/* ep_exchange: rows in buffers that a communicator exchanges: of exact counts, which the host learns first, or of
 * max_tokens rows always. Own rows stay where they are made. */
#include <stdlib.h>
#include <string.h>

#include "ep.h"

static moet_status open_buffers(moet_ep *ep, moet_ep_chunk *c)
{
    const bool is_rows = ep->options.returns == MOET_EP_RETURNS_ROWS, is_bound = c->pass.is_bound;
    const size_t N = (size_t)ep->options.ranks, T = (size_t)ep->chunk_tokens, R = (size_t)ep->recv_rows;
    const size_t H2 = (size_t)ep->problem.hidden * 2, k = (size_t)ep->options.choices, row = (size_t)c->pass.row_bytes;
    const size_t width = (size_t)c->pass.width, most = N < k ? N : k;
    const size_t sent = is_bound ? N * T : T * most; /* rows for other ranks, at most */
    size_t bytes = 0;
    const size_t recv = moet_ep_put(&bytes, R * row);
    const size_t y = moet_ep_put(&bytes, (is_rows ? (size_t)ep->max_rows : R) * H2);
    const size_t places = moet_ep_put(&bytes, is_rows ? R * width * 4 : 0);
    const size_t send = moet_ep_put(&bytes, sent * row);
    const size_t back = moet_ep_put(&bytes, (is_rows ? T * k : sent) * H2);
    const size_t packed = moet_ep_put(&bytes, is_rows ? (R - T) * width * H2 : 0);
    MOET_TRY(moet_ep_alloc(ep, bytes, &c->memory));
    uint8_t *memory = c->memory;
    c->recv = memory + recv;
    c->tails = c->recv + H2;
    c->y = memory + y;
    c->places = is_rows ? (int32_t *)(void *)(memory + places) : NULL;
    c->send = memory + send;
    c->back = memory + back;
    c->packed = is_rows ? memory + packed : NULL;
    c->counts = calloc(8 * N, sizeof *c->counts);
    void **to = calloc(3 * N, sizeof *to);
    moet_status status = MOET_NO_MEMORY;
    if (!c->counts || !to) {
        status = moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    } else {
        for (size_t q = 0; q < N; q++) {
            const bool is_own = q == (size_t)ep->options.rank;
            to[q] = is_own ? c->recv : c->send;
            to[N + q] = is_own ? c->y : c->back;
            to[2 * N + q] = is_own ? c->places : NULL;
        }
        status = moet_ep_point(ep, c, to, (const void *const *)(to + N), (const void *const *)(to + 2 * N));
    }
    free(to);
    return status;
}

static moet_status open_exact(moet_ep *ep, moet_ep_chunk *c) { return open_buffers(ep, c); }

static moet_status open_bound(moet_ep *ep, moet_ep_chunk *c)
{
    if (ep->options.returns == MOET_EP_RETURNS_ROWS)
        return moet_fail(MOET_UNSUPPORTED, "transport bound gives back sums only: the pairs' bound would be k times as "
                                           "many rows; transport exchange and lsa give back rows");
    c->pass.is_bound = 1;
    return open_buffers(ep, c);
}

static void close_buffers(moet_ep *ep, moet_ep_chunk *c)
{
    ep->device->backend->free(ep->device, c->memory);
    free(c->counts);
}

/* What goes where, in rows: either way, or back. */
typedef struct route {
    int32_t sent, received;         /* rows */
    int64_t send_first, recv_first; /* in the buffers */
    int32_t sent_pairs, received_pairs;
    int64_t send_pair_first, recv_pair_first;
} route;

static moet_status routes_of(moet_ep *ep, const moet_ep_chunk *c, route **routes)
{
    const int32_t N = ep->options.ranks, rank = ep->options.rank, T = (int32_t)ep->chunk_tokens;
    route *list = calloc((size_t)N, sizeof *list);
    if (!list) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    int64_t sent = 0, received = 0, sent_pairs = 0, received_pairs = 0;
    for (int32_t i = 0; i < N; i++) {
        route *r = &list[i];
        if (c->pass.is_bound) {
            *r = (route){.sent = T, .received = T, .send_first = (int64_t)i * T, .recv_first = (int64_t)i * T};
            continue;
        }
        *r = (route){c->counts[2 * i],     c->counts[2 * (N + i)],     sent,       received,
                     c->counts[2 * i + 1], c->counts[2 * (N + i) + 1], sent_pairs, received_pairs};
        received += r->received;
        if (i == rank) continue; /* own rows are received, but neither sent nor packed */
        sent += r->sent;
        sent_pairs += r->sent_pairs;
        received_pairs += r->received_pairs;
    }
    *routes = list;
    return MOET_OK;
}

static moet_status exchange(moet_ep *ep, moet_ep_part *parts, void *stream)
{
    parts[ep->options.rank] = (moet_ep_part){0};
    return moet_ep_comm_exchange(ep->data, parts, stream);
}

/* A rank's counts must be possible: they come from elsewhere. */
static moet_status check_counts(const moet_ep *ep, const moet_ep_chunk *c)
{
    const int32_t N = ep->options.ranks;
    for (int32_t i = 0; i < N; i++) {
        const int32_t rows = c->counts[2 * (N + i)], pairs = c->counts[2 * (N + i) + 1];
        /* Pairs are counted where they travel. */
        const bool is_rows = ep->options.returns == MOET_EP_RETURNS_ROWS;
        if (rows < 0 || rows > ep->chunk_tokens ||
            (is_rows && (pairs < rows || pairs > (int64_t)rows * c->pass.width)))
            return moet_fail(MOET_MISMATCH, "rank %d announces %d rows and %d pairs: the ranks are not in step", i,
                             rows, pairs);
    }
    return MOET_OK;
}

/* The other ranks' counts, and all of them on the host. Waits. */
static moet_status count(moet_ep *ep, moet_ep_chunk *c, moet_ep_part *parts, void *stream)
{
    const moet_backend *backend = ep->device->backend;
    const int32_t N = ep->options.ranks, rank = ep->options.rank;
    const size_t bytes = 2 * sizeof *c->counts;
    for (int32_t i = 0; i < N; i++)
        parts[i] = (moet_ep_part){c->pass.send_counts + 2 * i, bytes, c->pass.recv_counts + 2 * i, bytes};
    MOET_TRY(exchange(ep, parts, stream));
    MOET_TRY(ep->device_table->copy_async(ep->device, c->pass.recv_counts + 2 * rank, c->pass.send_counts + 2 * rank,
                                          bytes, stream));
    MOET_TRY(moet_ep_wait(ep, stream));
    MOET_TRY(backend->download(ep->device, c->counts, c->pass.send_counts, (size_t)N * bytes));
    MOET_TRY(backend->download(ep->device, c->counts + 2 * N, c->pass.recv_counts, (size_t)N * bytes));
    MOET_TRY(check_counts(ep, c));
    int32_t *const frozen = c->counts + 4 * N;
    const size_t all_bytes = 2 * (size_t)N * bytes;
    if (c->frozen_number > 0 && memcmp(frozen, c->counts, all_bytes) == 0) return MOET_OK;
    memcpy(frozen, c->counts, all_bytes);
    c->frozen_number++; /* what was captured before holds no longer: recv_counts are no longer its own */
    MOET_TRY(backend->upload(ep->device, c->frozen, c->counts, (size_t)N * bytes));
    return backend->upload(ep->device, c->frozen + 2 * N, &c->frozen_number, sizeof c->frozen_number);
}

static moet_status dispatch(moet_ep *ep, moet_ep_chunk *c, void *stream)
{
    const int32_t N = ep->options.ranks;
    moet_ep_pass plan = c->pass;
    bool is_frozen = false;
    route *routes = NULL;
    moet_ep_part *parts = calloc((size_t)N, sizeof *parts);
    if (!parts) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    moet_status status = ep->device_table->stream_is_captured(ep->device, stream, &is_frozen);
    is_frozen = is_frozen && !c->pass.is_bound;
    if (status == MOET_OK && is_frozen && c->frozen_number == 0)
        status = moet_fail(MOET_INVALID, "a capture keeps the counts of the run before: run the layer once first");
    plan.frozen = is_frozen ? c->frozen : NULL;
    plan.frozen_number = c->frozen_number;
    if (status == MOET_OK) status = ep->stages_table->plan(ep->stages, &plan, stream);
    if (status == MOET_OK && !is_frozen && !c->pass.is_bound) status = count(ep, c, parts, stream);
    if (status == MOET_OK) status = ep->stages_table->bases(ep->stages, &c->pass, stream);
    if (status == MOET_OK) status = ep->stages_table->dispatch(ep->stages, &c->pass, ep->options.comm_sms, stream);
    if (status == MOET_OK) status = routes_of(ep, c, &routes);
    for (int32_t i = 0; i < N && status == MOET_OK; i++) {
        const route *r = &routes[i];
        const size_t row = (size_t)c->pass.row_bytes;
        parts[i] = (moet_ep_part){c->send + (size_t)r->send_first * row, (size_t)r->sent * row,
                                  c->recv + (size_t)r->recv_first * row, (size_t)r->received * row};
    }
    if (status == MOET_OK) status = exchange(ep, parts, stream);
    free(parts);
    free(routes);
    return status;
}

static moet_status combine(moet_ep *ep, moet_ep_chunk *c, void *stream)
{
    const int32_t N = ep->options.ranks;
    const size_t H2 = (size_t)ep->problem.hidden * 2;
    const bool is_rows = ep->options.returns == MOET_EP_RETURNS_ROWS;
    route *routes = NULL;
    moet_ep_part *parts = calloc((size_t)N, sizeof *parts);
    if (!parts) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    moet_status status = routes_of(ep, c, &routes);
    if (status == MOET_OK && is_rows)
        status = ep->stages_table->pack(ep->stages, &c->pass, c->tails, c->y, c->places, c->packed, ep->options.comm_sms,
                                        stream);
    for (int32_t i = 0; i < N && status == MOET_OK; i++) {
        const route *r = &routes[i];
        char *back = c->back, *y = is_rows ? c->packed : c->y;
        parts[i] = is_rows ? (moet_ep_part){y + (size_t)r->recv_pair_first * H2, (size_t)r->received_pairs * H2,
                                            back + (size_t)r->send_pair_first * H2, (size_t)r->sent_pairs * H2}
                           : (moet_ep_part){y + (size_t)r->recv_first * H2, (size_t)r->received * H2,
                                            back + (size_t)r->send_first * H2, (size_t)r->sent * H2};
    }
    if (status == MOET_OK) status = exchange(ep, parts, stream);
    if (status == MOET_OK) status = ep->stages_table->combine(ep->stages, &c->pass, ep->options.comm_sms, stream);
    free(parts);
    free(routes);
    return status;
}

const moet_ep_transport moet_ep_transport_exchange = {.name = "exchange",
                                                      .is_graph_safe = false,
                                                      .open = open_exact,
                                                      .close = close_buffers,
                                                      .dispatch = dispatch,
                                                      .combine = combine};

const moet_ep_transport moet_ep_transport_bound = {.name = "bound",
                                                   .is_graph_safe = true,
                                                   .open = open_bound,
                                                   .close = close_buffers,
                                                   .dispatch = dispatch,
                                                   .combine = combine};

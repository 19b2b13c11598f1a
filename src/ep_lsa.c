/* ep_lsa: rows by loads and stores to the other ranks' memory. A rank stores its rows straight to where they are
 * received, in the order of (source rank, token). Rows that come back are loaded from where they were made; sums are
 * stored to the token's rank as they are made, and added there. Two waits for all
 * ranks a run: when rows have arrived, and when results may be read. They also keep a buffer from being written while
 * it is read: rows of the next run are stored after a rank has read what came back, which it could only after every
 * rank had its experts done. */
#include <stdlib.h>
#include <string.h>

#include "ep.h"

/* Where things are in every rank's window. */
typedef struct layout {
    size_t words, arrived, ready, given, places, recv, y, back, bytes; /* places, y: rows; back: sums */
} layout;

static layout layout_of(const moet_ep *ep, const moet_ep_chunk *c)
{
    const bool is_rows = ep->options.returns == MOET_EP_RETURNS_ROWS;
    const size_t N = (size_t)ep->options.ranks, R = (size_t)ep->recv_rows, H2 = (size_t)ep->problem.hidden * 2;
    layout l = {0};
    l.words = moet_ep_put(&l.bytes, N * N * 8);
    l.arrived = moet_ep_put(&l.bytes, N * 4);
    l.ready = moet_ep_put(&l.bytes, N * 4);
    l.given = moet_ep_put(&l.bytes, N * (size_t)c->pass.given_pieces * 4);
    l.places = moet_ep_put(&l.bytes, is_rows ? R * (size_t)c->pass.width * 4 : 0);
    l.recv = moet_ep_put(&l.bytes, R * (size_t)c->pass.row_bytes);
    l.y = moet_ep_put(&l.bytes, is_rows ? (size_t)ep->max_rows * H2 : 0);
    l.back = moet_ep_put(&l.bytes, is_rows ? 0 : R * H2);
    return l;
}

static moet_status open_lsa(moet_ep *ep, moet_ep_chunk *c)
{
    const size_t N = (size_t)ep->options.ranks;
    const layout l = layout_of(ep, c);
    const bool is_rows = ep->options.returns == MOET_EP_RETURNS_ROWS;
    const size_t H2 = (size_t)ep->problem.hidden * 2;
    c->windows = calloc(N, sizeof *c->windows);
    void **scratch = calloc(N, 3 * sizeof *scratch);
    moet_status status = c->windows && scratch
                             ? ep->device_table->window_open(ep->device, ep->control, l.bytes, c->windows)
                             : moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    if (status != MOET_OK) goto done;
    ep->memory_bytes += l.bytes;
    char *own = c->windows[ep->options.rank];
    c->recv = (uint8_t *)own + l.recv;
    c->tails = c->recv + H2;
    c->y = own + l.y;
    c->places = (int32_t *)(void *)(own + l.places);
    c->pass.is_given = !is_rows;
    if (!is_rows) { /* nobody else reads them */
        size_t bytes = 0;
        const size_t places = moet_ep_put(&bytes, (size_t)ep->recv_rows * (size_t)c->pass.width * 4);
        const size_t y = moet_ep_put(&bytes, (size_t)ep->max_rows * (size_t)ep->problem.hidden * 2);
        status = moet_ep_alloc(ep, bytes, &c->memory);
        if (status != MOET_OK) goto done;
        c->places = (int32_t *)(void *)((char *)c->memory + places);
        c->y = (char *)c->memory + y;
        c->back = own + l.back;
        c->pass.own_rows = c->y;
        c->pass.own_places = c->places;
    }
    c->pass.is_lsa = 1;
    c->pass.pair = NULL; /* places are read where they are */
    for (size_t i = 0; i < N; i++) {
        char *window = c->windows[i];
        scratch[i] = window + l.recv;
        scratch[N + i] = is_rows ? window + l.y : own + l.back + i * (size_t)ep->chunk_tokens * H2;
        scratch[2 * N + i] = window + l.places;
    }
    status = moet_ep_point(ep, c, scratch, (const void *const *)(scratch + N),
                           is_rows ? (const void *const *)(scratch + 2 * N) : NULL);
    if (status == MOET_OK) status = moet_ep_point_windows(ep, c, l.words, (void *)c->pass.peer_words);
    if (status == MOET_OK) status = moet_ep_point_windows(ep, c, l.arrived, (void *)c->pass.peer_arrived);
    if (status == MOET_OK) status = moet_ep_point_windows(ep, c, l.ready, (void *)c->pass.peer_ready);
    if (status == MOET_OK) status = moet_ep_point_windows(ep, c, l.given, (void *)c->pass.peer_given);
    if (status == MOET_OK) status = moet_ep_point_windows(ep, c, l.back, (void *)c->pass.peer_back);
done:
    free(scratch);
    return status;
}

static void close_lsa(moet_ep *ep, moet_ep_chunk *c)
{
    moet_ep_close_windows(ep, c, layout_of(ep, c).bytes);
    ep->device->backend->free(ep->device, c->memory);
}

static moet_status dispatch(moet_ep *ep, moet_ep_chunk *c, void *stream)
{
    MOET_TRY(ep->stages_table->plan(ep->stages, &c->pass, stream));
    MOET_TRY(ep->stages_table->bases(ep->stages, &c->pass, stream));
    return ep->stages_table->dispatch(ep->stages, &c->pass, ep->options.comm_sms, stream);
}

static moet_status combine(moet_ep *ep, moet_ep_chunk *c, void *stream)
{
    if (c->pass.is_given)
        MOET_TRY(ep->stages_table->give(ep->stages, &c->pass, c->tails, c->y, c->places, ep->options.comm_sms, stream));
    return ep->stages_table->combine(ep->stages, &c->pass, ep->options.comm_sms, stream);
}

/* ---- joint: rows that are given cross the link while others are combined ----
 *
 * A rank waits only for sums that it wants, so the second wait keeps no buffer. The next run's counts do: a rank stores
 * rows only after it has those of all ranks, and a rank's plan, which is never launched early, follows its combine. */

static moet_status open_joint(moet_ep *ep, moet_ep_chunk *c)
{
    if (ep->options.returns == MOET_EP_RETURNS_ROWS)
        return moet_fail(MOET_UNSUPPORTED, "transport lsa_joint gives back sums only, as rows are read where they were "
                                           "made; transport lsa gives back rows");
    return open_lsa(ep, c);
}

static moet_status combine_joint(moet_ep *ep, moet_ep_chunk *c, void *stream)
{
    return ep->stages_table->give_and_combine(ep->stages, &c->pass, c->tails, c->y, c->places, ep->options.comm_sms,
                                              stream);
}

const moet_ep_transport moet_ep_transport_lsa = {.name = "lsa",
                                                 .is_graph_safe = true,
                                                 .is_by_memory = true,
                                                 .open = open_lsa,
                                                 .close = close_lsa,
                                                 .dispatch = dispatch,
                                                 .combine = combine};

const moet_ep_transport moet_ep_transport_lsa_joint = {.name = "lsa_joint",
                                                       .is_graph_safe = true,
                                                       .is_by_memory = true,
                                                       .open = open_joint,
                                                       .close = close_lsa,
                                                       .dispatch = dispatch,
                                                       .combine = combine_joint};

/* ep_allgather: every rank's rows go whole to all other ranks, by copies that take no SM and wait for no plan: nobody
 * asks which rank wants a row. With k choices over N ranks nearly all of them do where N is small (docs/ep.md). What is
 * to be done with a row comes in its tail, which a kernel writes; rows that have no expert here have ids of -1.
 *
 * The experts' work is cut by where rows come from, so that copies run under it:
 *
 *   chunks 1   [all rows]
 *   chunks 2   [own rows] [others' rows]                          rows arrive under the own ones
 *   chunks n   [own rows, half] [others' rows, n - 2 pieces] [own rows, half]   sums go back under what follows, too
 *
 * Sums go back by `give`, which makes them (chunks 1, 2), or by copies. Own rows are added up by combine. The waits are
 * those of ep_lsa.c, and guard the same: rows and tails of the next run are stored after this rank has combined, which
 * it could only when all ranks had their experts done. */
#include <stdlib.h>
#include <string.h>

#include "ep.h"

/* Rows of fewer bytes are copied by a kernel, together with their tails: a copy takes some microseconds to begin. */
enum { KERNEL_COPIES_BYTES = 4 << 20 };

static bool is_split(const moet_ep *ep) { return ep->options.chunks > 1; }
static bool is_copied_back(const moet_ep *ep) { return ep->options.chunks > 2; }
static int32_t pieces_of(const moet_ep *ep) { return is_copied_back(ep) ? ep->options.chunks - 2 : 1; }
static int64_t piece_tokens_of(const moet_ep *ep)
{
    return (ep->options.max_tokens + pieces_of(ep) - 1) / pieces_of(ep);
}

/* Slots of other ranks' rows. */
static int64_t remote_slots_of(const moet_ep *ep)
{
    return (ep->options.ranks - 1) * pieces_of(ep) * piece_tokens_of(ep);
}

static void size(moet_ep *ep)
{
    const int64_t N = ep->options.ranks, T = ep->options.max_tokens, k = ep->options.choices;
    const int64_t remote = (N - 1) * piece_tokens_of(ep);
    ep->chunk_count = 1;
    ep->chunk_tokens = T;
    ep->options.comm_sms = 0; /* copies take none */
    if (!is_split(ep)) return;
    ep->recv_rows = remote > T ? remote : T;
    ep->expected_rows = remote * k / N > 0 ? remote * k / N : T * k;
}

/* Where things are in every rank's window. */
typedef struct layout {
    size_t arrived, ready, tails, recv, back, bytes;
} layout;

static size_t tail_bytes_of(const moet_ep *ep) { return (8 * (size_t)ep->options.choices + 4 + 15) / 16 * 16; }

static layout layout_of(const moet_ep *ep)
{
    const size_t N = (size_t)ep->options.ranks, T = (size_t)ep->chunk_tokens, H2 = (size_t)ep->problem.hidden * 2;
    const size_t remote = (size_t)remote_slots_of(ep), own = (size_t)(pieces_of(ep) * piece_tokens_of(ep));
    layout l = {0};
    l.arrived = moet_ep_put(&l.bytes, N * 4);
    l.ready = moet_ep_put(&l.bytes, N * 4);
    l.tails = moet_ep_put(&l.bytes, (remote + own) * tail_bytes_of(ep));
    l.recv = moet_ep_put(&l.bytes, (remote + (is_split(ep) ? 0 : T)) * H2);
    l.back = moet_ep_put(&l.bytes, N * T * H2);
    return l;
}

/* What only this rank sees. */
static moet_status open_memory(moet_ep *ep, moet_ep_chunk *c)
{
    const size_t H2 = (size_t)ep->problem.hidden * 2, width = (size_t)ep->width, T = (size_t)ep->chunk_tokens;
    const size_t remote = (size_t)remote_slots_of(ep), rows = is_copied_back(ep) ? T : remote + T;
    size_t bytes = 0;
    const size_t places = moet_ep_put(&bytes, rows * width * 4);
    const size_t y = moet_ep_put(&bytes, rows * width * H2);
    const size_t sums = moet_ep_put(&bytes, is_copied_back(ep) ? remote * H2 : 0);
    MOET_TRY(moet_ep_alloc(ep, bytes, &c->memory));
    char *memory = c->memory;
    int32_t *all_places = (int32_t *)(void *)(memory + places);
    c->sums = memory + sums;
    c->y = memory + y;
    c->places = all_places;
    /* One call of moet_ffn numbers all rows from 0 on; of two each has its own. */
    c->pass.own_rows = c->y;
    c->pass.own_places = is_split(ep) ? all_places : all_places + remote * width;
    if (is_split(ep)) { /* c->y and c->places: of the other ranks' rows */
        c->y = memory + y + T * width * H2;
        c->places = all_places + T * width;
    }
    return MOET_OK;
}

/* What give goes by, which never changes. */
static moet_status open_sources(moet_ep *ep, moet_ep_chunk *c)
{
    const int32_t N = ep->options.ranks, rank = ep->options.rank;
    const moet_backend *backend = ep->device->backend;
    const int32_t count = (int32_t)(remote_slots_of(ep) + (is_split(ep) ? 0 : ep->chunk_tokens));
    int32_t *numbers = calloc(3 * (size_t)N, sizeof *numbers);
    if (!numbers) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    for (int32_t s = 0; s < N; s++) {
        numbers[s] = (int32_t)moet_ep_slot_of(&c->pass, s, rank, 0);
        numbers[N + 2 * s] = s == rank && is_split(ep) ? 0 : c->pass.piece_tokens;
    }
    moet_status status = backend->upload(ep->device, c->pass.recv_first, numbers, (size_t)N * 4);
    if (status == MOET_OK) status = backend->upload(ep->device, c->pass.recv_counts, numbers + N, (size_t)N * 8);
    if (status == MOET_OK) status = backend->upload(ep->device, c->pass.recv_tokens, &count, 4);
    free(numbers);
    return status;
}

static moet_status open_chunk(moet_ep *ep, moet_ep_chunk *c)
{
    const size_t N = (size_t)ep->options.ranks, H2 = (size_t)ep->problem.hidden * 2;
    const layout l = layout_of(ep);
    if (ep->options.returns == MOET_EP_RETURNS_ROWS)
        return moet_fail(MOET_UNSUPPORTED,
                         "transport allgather gives back sums only, as rows have no places that other "
                         "ranks know; transport exchange and lsa give back rows");
    moet_ep_pass *p = &c->pass;
    p->is_given = 1;
    p->slot = NULL; /* a token's sums are at its number */
    p->pieces = pieces_of(ep);
    p->piece_tokens = (int32_t)piece_tokens_of(ep);
    p->awaits_ready = is_copied_back(ep);
    p->tail_bytes = (int32_t)tail_bytes_of(ep);
    c->windows = calloc(N, sizeof *c->windows);
    void **scratch = calloc(N, 2 * sizeof *scratch);
    moet_status status = c->windows && scratch
                             ? ep->device_table->window_open(ep->device, ep->control, l.bytes, c->windows)
                             : moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    if (status == MOET_OK) {
        char *own = c->windows[ep->options.rank];
        ep->memory_bytes += l.bytes;
        c->recv = (uint8_t *)own + l.recv;
        c->tails = (uint8_t *)own + l.tails;
        c->back = own + l.back;
        for (size_t i = 0; i < N; i++) {
            scratch[i] = (char *)c->windows[i] + l.recv;
            scratch[N + i] = own + l.back + i * (size_t)ep->chunk_tokens * H2;
        }
        status = open_memory(ep, c);
    }
    if (status == MOET_OK) status = moet_ep_point(ep, c, scratch, (const void *const *)(scratch + N), NULL);
    if (status == MOET_OK) status = moet_ep_point_windows(ep, c, l.arrived, (void *)p->peer_arrived);
    if (status == MOET_OK) status = moet_ep_point_windows(ep, c, l.ready, (void *)p->peer_ready);
    if (status == MOET_OK) status = moet_ep_point_windows(ep, c, l.tails, (void *)p->peer_tails);
    if (status == MOET_OK) status = moet_ep_point_windows(ep, c, l.back, (void *)p->peer_back);
    if (status == MOET_OK) status = open_sources(ep, c);
    free(scratch);
    return status;
}

static void close_chunk(moet_ep *ep, moet_ep_chunk *c)
{
    moet_ep_close_windows(ep, c, layout_of(ep).bytes);
    ep->device->backend->free(ep->device, c->memory);
}

/* ---- copies, on the communication stream ---- */

/* Rows of a piece that are there; of `tokens` in all. */
static int64_t piece_rows(const moet_ep_pass *p, int64_t tokens, int32_t piece)
{
    const int64_t left = tokens - (int64_t)piece * p->piece_tokens;
    return left < 0 ? 0 : left < p->piece_tokens ? left : p->piece_tokens;
}

/* The n-th other rank: each rank begins with the one behind it, so that no two send to the same. */
static int32_t other(const moet_ep *ep, int32_t n) { return (ep->options.rank + 1 + n) % ep->options.ranks; }

static moet_status copy_rows(moet_ep *ep, const moet_ep_chunk *c, int32_t piece)
{
    const moet_ep_pass *p = &c->pass;
    const size_t H2 = (size_t)p->hidden * 2, recv = layout_of(ep).recv;
    const int64_t first = (int64_t)piece * p->piece_tokens, rows = piece_rows(p, p->tokens, piece);
    for (int32_t n = 0; n < p->ranks - 1 && rows > 0; n++) {
        const int32_t q = other(ep, n);
        char *to = (char *)c->windows[q] + recv + (size_t)moet_ep_slot_of(p, p->rank, q, first) * H2;
        MOET_TRY(ep->device_table->copy_async(ep->device, to, (const char *)p->x + (size_t)first * H2,
                                              (size_t)rows * H2, ep->comm_stream));
    }
    return MOET_OK;
}

/* All rows of a piece, also of tokens that are not there: how many a rank has is its own affair. */
static moet_status copy_sums(moet_ep *ep, const moet_ep_chunk *c, int32_t piece)
{
    const moet_ep_pass *p = &c->pass;
    const size_t H2 = (size_t)p->hidden * 2, back = layout_of(ep).back;
    const int64_t first = (int64_t)piece * p->piece_tokens, rows = piece_rows(p, p->max_tokens, piece);
    for (int32_t n = 0; n < p->ranks - 1 && rows > 0; n++) {
        const int32_t q = other(ep, n);
        char *to = (char *)c->windows[q] + back + (size_t)((int64_t)p->rank * p->max_tokens + first) * H2;
        const char *from = (const char *)c->sums + (size_t)moet_ep_slot_of(p, q, p->rank, first) * H2;
        MOET_TRY(ep->device_table->copy_async(ep->device, to, from, (size_t)rows * H2, ep->comm_stream));
    }
    return MOET_OK;
}

/* A word of `tell` to all other ranks, at `start` of their windows. */
static moet_status tell(moet_ep *ep, const moet_ep_chunk *c, size_t start, int32_t word)
{
    for (int32_t n = 0; n < ep->options.ranks - 1; n++) {
        uint32_t *words = (uint32_t *)(void *)((char *)c->windows[other(ep, n)] + start);
        MOET_TRY(
            ep->device_table->flag_async(ep->device, words + ep->options.rank, c->pass.tell + word, ep->comm_stream));
    }
    return MOET_OK;
}

/* One stream goes on from where the other one is. */
static moet_status follow(moet_ep *ep, void *event, void *leader, void *follower)
{
    MOET_TRY(ep->device->backend->event_record(ep->device, event, leader));
    return ep->device_table->stream_wait(ep->device, follower, event);
}

/* ---- a run ---- */

static bool is_by_kernel(const moet_ep *ep, const moet_ep_pass *p)
{
    const bool is_small = (size_t)p->tokens * (size_t)p->hidden * 2 < KERNEL_COPIES_BYTES;
    return p->x_stride != p->hidden || (!is_split(ep) && is_small);
}

/* Rows, tails and words on their way. */
static moet_status send(moet_ep *ep, moet_ep_chunk *c, void *stream)
{
    moet_ep_pass *p = &c->pass;
    const bool by_kernel = is_by_kernel(ep, p);
    if (is_split(ep))
        p->spreads = by_kernel ? MOET_EP_SPREADS_ALL : MOET_EP_SPREADS_NONE;
    else
        p->spreads = by_kernel ? MOET_EP_SPREADS_AND_WAITS : MOET_EP_SPREADS_OWN;
    if (!by_kernel) {
        MOET_TRY(follow(ep, ep->begun, stream, ep->comm_stream));
        MOET_TRY(copy_rows(ep, c, 0));
    }
    MOET_TRY(ep->stages_table->spread(ep->stages, p, 0, stream));
    if (by_kernel) return MOET_OK;
    MOET_TRY(follow(ep, c->arrived, stream, ep->comm_stream)); /* words follow the tails */
    for (int32_t i = 0; i < p->pieces; i++) {
        if (i > 0) MOET_TRY(copy_rows(ep, c, i));
        MOET_TRY(tell(ep, c, layout_of(ep).arrived, i));
        MOET_TRY(ep->device->backend->event_record(ep->device, c->sent[i], ep->comm_stream));
    }
    return MOET_OK;
}

/* Own tokens from `first` to before `end`, uncombined. */
static moet_status run_own(moet_ep *ep, moet_ep_chunk *c, const moet_ep_args *a, int64_t first, int64_t end)
{
    const moet_ep_pass *p = &c->pass;
    const int64_t behind = first * ep->width;
    const moet_ep_input input = {.x = (const uint16_t *)p->x + first * p->x_stride,
                                 .x_stride = p->x_stride,
                                 .tails = c->tails + (size_t)(remote_slots_of(ep) + first) * (size_t)p->tail_bytes,
                                 .tokens = end - first,
                                 .rows = (uint16_t *)p->own_rows + behind * p->hidden,
                                 .places = (int32_t *)p->own_places + behind};
    return end > first ? moet_ep_experts(ep, a, &input, a->stream) : MOET_OK;
}

/* Rows at `slot` and on; sums NULL: uncombined. */
static moet_status run_received(moet_ep *ep, moet_ep_chunk *c, const moet_ep_args *a, int64_t slot, int64_t rows,
                                void *sums)
{
    const moet_ep_pass *p = &c->pass;
    const moet_ep_input input = {.x = c->recv + (size_t)slot * (size_t)p->hidden * 2,
                                 .x_stride = p->hidden,
                                 .tails = c->tails + (size_t)slot * (size_t)p->tail_bytes,
                                 .tokens = rows,
                                 .sums = sums,
                                 .rows = c->y,
                                 .places = c->places};
    return rows > 0 ? moet_ep_experts(ep, a, &input, a->stream) : MOET_OK;
}

static moet_status give(moet_ep *ep, moet_ep_chunk *c, void *stream)
{
    return ep->stages_table->give(ep->stages, &c->pass, c->tails, c->y, c->places, 0, stream);
}

/* Waits for the others' rows of a piece, once this rank's own of it are out. Not before: a wait takes its place on the
 * device while it lasts, and nothing says that copies go on beside it. As all ranks do so, those of them that wait for
 * the earliest piece get it: nobody waits for good. */
static moet_status await_piece(moet_ep *ep, const moet_ep_chunk *c, int32_t piece, void *stream)
{
    const bool by_kernel = is_by_kernel(ep, &c->pass); /* on the same stream, then */
    if (!by_kernel) MOET_TRY(ep->device_table->stream_wait(ep->device, stream, c->sent[piece]));
    return ep->stages_table->await(ep->stages, &c->pass, piece, by_kernel ? 0 : ep->device->info.sm_count, stream);
}

/* One chunk: parts on their own, for those who measure them. */
static moet_status run_whole(moet_ep *ep, moet_ep_chunk *c, const moet_ep_args *a, int32_t parts)
{
    const moet_ep_pass *p = &c->pass;
    if (parts & MOET_EP_DISPATCH) {
        MOET_TRY(send(ep, c, a->stream));
        if (!is_by_kernel(ep, p)) MOET_TRY(await_piece(ep, c, 0, a->stream));
    }
    if (parts & MOET_EP_EXPERTS)
        MOET_TRY(run_received(ep, c, a, 0, ep->recv_rows, parts == MOET_EP_EXPERTS ? c->back : NULL));
    if (!(parts & MOET_EP_COMBINE)) return MOET_OK;
    MOET_TRY(give(ep, c, a->stream));
    return ep->stages_table->combine(ep->stages, &c->pass, 0, a->stream);
}

/* Several: what runs on the caller's stream follows the others by words that they write, and the own copies where it
 * says so. */
static moet_status run_split(moet_ep *ep, moet_ep_chunk *c, const moet_ep_args *a)
{
    moet_ep_pass *p = &c->pass;
    const int64_t own = p->tokens, half = is_copied_back(ep) ? (own + 1) / 2 : own;
    const int64_t rows = (int64_t)(p->ranks - 1) * p->piece_tokens;
    const bool by_kernel = is_by_kernel(ep, p);
    p->own_split = (int32_t)half;
    MOET_TRY(send(ep, c, a->stream));
    if (by_kernel) MOET_TRY(follow(ep, ep->begun, a->stream, ep->comm_stream));
    MOET_TRY(run_own(ep, c, a, 0, half));
    for (int32_t i = 0; i < p->pieces; i++) {
        void *sums = is_copied_back(ep) ? (char *)c->sums + (size_t)(i * rows) * (size_t)p->hidden * 2 : NULL;
        MOET_TRY(await_piece(ep, c, i, a->stream));
        MOET_TRY(run_received(ep, c, a, i * rows, rows, sums));
        if (!sums) continue;
        MOET_TRY(follow(ep, c->computed, a->stream, ep->comm_stream));
        MOET_TRY(copy_sums(ep, c, i));
    }
    if (is_copied_back(ep)) MOET_TRY(tell(ep, c, layout_of(ep).ready, p->pieces));
    MOET_TRY(run_own(ep, c, a, half, own));
    if (!is_copied_back(ep)) MOET_TRY(give(ep, c, a->stream));
    MOET_TRY(follow(ep, ep->ended, ep->comm_stream, a->stream));
    return ep->stages_table->combine(ep->stages, p, ep->device->info.sm_count, a->stream);
}

static moet_status run(moet_ep *ep, const moet_ep_args *a, int32_t parts)
{
    moet_ep_chunk *c = &ep->chunks[0];
    return is_split(ep) ? run_split(ep, c, a) : run_whole(ep, c, a, parts);
}

const moet_ep_transport moet_ep_transport_allgather = {.name = "allgather",
                                                       .is_graph_safe = true,
                                                       .is_by_memory = true,
                                                       .size = size,
                                                       .open = open_chunk,
                                                       .close = close_chunk,
                                                       .run = run};

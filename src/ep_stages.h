/* ep_stages: the passes of the expert-parallel layer that are neither GEMMs nor a communicator's work (docs/ep.md): one
 * implementation a backend, in kernels/ep_host.c and kernels/ep_cuda.c with ep.cu. Plain C tables, reached by name, so
 * that src needs nothing of kernels.
 *
 * A row on its way to an expert is `row_bytes` long: H BF16, k local ids (int32, -1: not there), k router weights
 * (FP32), the number of pairs before it (int32, below), and up to the next 128 bytes nothing.
 *
 * Rows that one rank sends another are numbered by ascending token: their slot. A pair is a row and one of its experts
 * there, numbered by ascending row, then expert. */
#ifndef MOET_EP_STAGES_H
#define MOET_EP_STAGES_H

#include "device.h"

/* Why a pass gave up, in moet_ep_pass.failure: what | rank. */
enum { MOET_EP_FAILED_WAIT = 1 << 16, MOET_EP_FAILED_ROUTING = 2 << 16 };

/* Everything that the passes of one chunk read and write. All pointers are device memory, arrays of pointers too;
 * `peer` arrays [ranks] point into the ranks' windows, the own among them. The same structure is a kernel's parameter
 * (ep.cu repeats it). */
typedef struct moet_ep_pass {
    /* the tokens of the run; strides are never 0 */
    const void *x, *ids;
    const float *weights; /* NULL: ones */
    void *out;
    int64_t x_stride, ids_stride, weights_stride, out_stride;
    /* what plan and bases find */
    int32_t *slot;            /* [ranks, max_tokens] the token's slot at that rank, -1 none */
    int32_t *pair;            /* [ranks, max_tokens] pairs before the token's at that rank; NULL: not wanted */
    int32_t *send_counts;     /* [ranks, 2] rows for each rank, and pairs where they are wanted */
    int32_t *recv_counts;     /* [ranks, 2] from each rank */
    int32_t *frozen; /* [ranks, 2] what send_counts must be, and frozen_number, or failure is set; NULL: anything */
    int32_t *first;           /* [ranks] rows of `to` and `from` before slot 0 */
    int32_t *pair_first;      /* [ranks] pairs of `from` before pair 0 */
    int32_t *recv_first;      /* [ranks] received rows before each rank's */
    int32_t *recv_pair_first; /* [ranks] pairs in the packed rows before each rank's; the own ones are not packed */
    int32_t *recv_tokens;     /* [1] received rows, the own among them */
    /* where rows go and come back from */
    void *const *to;              /* [ranks] rows of row_bytes */
    const void *const *from;      /* [ranks] rows [H] */
    const int32_t *const *places; /* [ranks] rows of `from` of each row's experts [rows, width]; NULL: pairs */
    /* lsa: windows of all ranks */
    uint64_t *const *peer_words;   /* counts, [sender, receiver]: epoch << 32 | rows */
    uint32_t *const *peer_arrived; /* [sender]: epoch of the last dispatch that is done */
    uint32_t *const *peer_ready;   /* [sender]: epoch of the last rows that may be read */
    void *const *peer_back;        /* sums are given: rows [sender, max_tokens, H], by the sender's slots */
    /* is_given: combine adds up the rows of this rank's own tokens itself */
    const void *own_rows;      /* [M, H] */
    const int32_t *own_places; /* [received, width] */
    int32_t own_split;         /* allgather: rows of tokens from here on begin own_split * width rows later */
    /* allgather */
    int32_t pieces, piece_tokens; /* what travels together: tokens i * piece_tokens and on of each rank */
    int32_t spreads;              /* rows that spread copies, below */
    int32_t awaits_ready;         /* copies bring sums and `ready`: combine waits for tell[pieces] */
    void *const *peer_tails;      /* [ranks] tails of moet_ep_slot_of() */
    uint32_t *tell;               /* [pieces + 1] words for other ranks that copies carry: arrived, a piece each; ready */
    /* give_and_combine: sums travel by pieces of MOET_EP_GIVEN_SLOTS slots */
    uint32_t *const *peer_given; /* [sender, given_pieces]: epoch of the last `ready` of which a piece is there */
    uint32_t *given_units;       /* [given_pieces] of a piece's units of work, those that are done */
    int32_t given_pieces;
    uint32_t *epochs;              /* [MOET_EP_EPOCHS] of words, arrived, ready; what kernels count */
    const volatile int32_t *lost;  /* nonzero: give up */
    int32_t *failure;              /* set where a pass gave up */
    int64_t timeout_ns;
    int32_t tokens, max_tokens; /* of the chunk */
    int32_t rank, ranks, choices, local_experts, hidden, width /* min(k, local experts) */, row_bytes;
    int32_t tail_bytes; /* from one received row's tail, its ids and what follows, to the next */
    int32_t ids_int64, returns_rows, is_lsa, is_bound;
    int32_t is_weighted;  /* rows at the combine, with returns_rows, or in give */
    int32_t single_plain; /* give: a row alone is not weighted */
    int32_t is_given;     /* sums are stored to the token's rank, and combine adds what is there */
    int32_t frozen_number; /* which of all counts this capture keeps */
} moet_ep_pass;

enum { MOET_EP_EPOCHS = 16, MOET_EP_GIVEN_SLOTS = 128 };

/* moet_ep_pass.spreads: no rows; own ones; all, telling the other ranks; all, and waiting for theirs. */
enum { MOET_EP_SPREADS_NONE, MOET_EP_SPREADS_OWN, MOET_EP_SPREADS_ALL, MOET_EP_SPREADS_AND_WAITS };

/* Allgather: where `receiver` has the row (and tail) of a token of `sender`: by pieces, ranks from the one behind the
 * receiver on, tokens; the receiver's own are behind all others'. */
static inline int64_t moet_ep_slot_of(const moet_ep_pass *p, int32_t sender, int32_t receiver, int64_t token)
{
    const int64_t others = p->ranks - 1, P = p->piece_tokens, piece = token / P;
    if (sender == receiver) return p->pieces * others * P + token;
    const int64_t nth = (sender - receiver - 1 + p->ranks) % p->ranks;
    return (piece * others + nth) * P + token % P;
}

typedef struct moet_ep_stages moet_ep_stages;

/* Each enqueues on the stream; nothing allocates or synchronises. sms: to take, at most; 0: all, and the launch may begin
 * under the one before it. */
typedef struct moet_ep_stages_table {
    const char *backend;
    moet_status (*create)(moet_device *device, moet_ep_stages **stages);
    void (*destroy)(moet_ep_stages *stages);
    /* slot, pair, send_counts; lsa: counts to all peers. */
    moet_status (*plan)(moet_ep_stages *stages, const moet_ep_pass *pass, void *stream);
    /* first, recv_first, recv_tokens and the others; lsa: waits for all counts, and writes recv_counts. */
    moet_status (*bases)(moet_ep_stages *stages, const moet_ep_pass *pass, void *stream);
    /* Rows into `to`; is_bound: ids of -1 into the rows up to max_tokens. lsa: waits for everybody's rows. */
    moet_status (*dispatch)(moet_ep_stages *stages, const moet_ep_pass *pass, int32_t sms, void *stream);
    /* The other ranks' pairs, out of rows [M, H] by places [received, width], into packed [pairs, H]. */
    moet_status (*pack)(moet_ep_stages *stages, const moet_ep_pass *pass, const void *tails, const void *rows,
                        const int32_t *places, void *packed, int32_t sms, void *stream);
    /* is_given: the sum of each row received of another rank, out of rows [M, H] by places, to the back of the rank that
     * it came from; then waits for everybody's. */
    moet_status (*give)(moet_ep_stages *stages, const moet_ep_pass *pass, const void *tails, const void *rows,
                        const int32_t *places, int32_t sms, void *stream);
    /* give and combine, where sums may be added up while others are under way. */
    moet_status (*give_and_combine)(moet_ep_stages *stages, const moet_ep_pass *pass, const void *tails,
                                    const void *rows, const int32_t *places, int32_t sms, void *stream);
    /* allgather: tails to all ranks, of -1 where a piece has no token; rows as `spreads` says; `tell`, and this rank's own
     * words. */
    moet_status (*spread)(moet_ep_stages *stages, const moet_ep_pass *pass, int32_t sms, void *stream);
    /* allgather: waits for everybody's rows of a piece. */
    moet_status (*await)(moet_ep_stages *stages, const moet_ep_pass *pass, int32_t piece, int32_t sms, void *stream);
    /* out. lsa, not is_given: says that this rank's rows may be read, and waits for everybody's. */
    moet_status (*combine)(moet_ep_stages *stages, const moet_ep_pass *pass, int32_t sms, void *stream);

    /* For a library that dispatches itself. The tokens' choices without gaps: ids [tokens, k], -1 for none and for an
     * expert that the token has named before; weights [tokens, k], ones where there are none. */
    moet_status (*choices)(moet_ep_stages *stages, const moet_ep_pass *pass, int32_t *ids, float *weights,
                           void *stream);
    /* Rows of H BF16; strides in elements, multiples of 8. */
    moet_status (*copy)(moet_ep_stages *stages, void *to, int64_t to_stride, const void *from, int64_t from_stride,
                        int64_t rows, int32_t hidden, void *stream);
    /* The expert of each slot, where expert e has slots first[e] and on: ids [bound], -1 from *total on. */
    moet_status (*slots)(moet_ep_stages *stages, const int32_t *first, int32_t experts, const int32_t *total,
                         int32_t *ids, int32_t bound, void *stream);
} moet_ep_stages_table;

extern const moet_ep_stages_table moet_ep_stages_host;
#ifdef MOET_CUDA
extern const moet_ep_stages_table moet_ep_stages_cuda;
#endif

/* Bytes of a row on its way: whole lines of 128 bytes, as a link carries a part of one no faster. */
static inline int32_t moet_ep_row_bytes(int32_t hidden, int32_t choices)
{
    return (2 * hidden + 8 * choices + 4 + 127) / 128 * 128;
}

#endif

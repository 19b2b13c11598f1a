/* ep_case: an expert-parallel layer with all ranks' tokens, the same on every rank, and what each rank's out must be.
 */
#ifndef MOET_EP_CASE_H
#define MOET_EP_CASE_H

#include "ffn_run.h"

#include "../src/ep.h"

typedef struct ep_case {
    ffn_path path;                        /* of all experts, with the tokens of all ranks, rank 0's first */
    int64_t first[MOET_EP_MAX_RANKS + 1]; /* [ranks + 1] token where each rank's begin */
    moet_ep_options options;
} ep_case;

/* A layer of any kind for so many ranks; nth takes turns. options lack rank, rendezvous and net. */
void ep_case_draw(uint64_t *random, int64_t nth, int32_t ranks, ep_case *c);
/* Other tokens, as many or fewer on each rank, for the same layer. */
void ep_case_redraw(uint64_t *random, int64_t nth, ep_case *c);
void ep_case_free(ep_case *c);

/* By moet_ffn on one device: of all experts at once (ROWS), or of each rank's group and added up (SUMS). out [T, H] of
 * the tokens of `rank`. */
void ep_case_expect(const ep_case *c, moet_handle *handle, int32_t rank, uint16_t *out);

/* Creates the layer on this rank, runs it with this case's tokens and some others' after that, and compares. */
void ep_case_check(ep_case *c, moet_handle *handle, uint64_t *random, int64_t nth);

#endif

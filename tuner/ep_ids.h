/* ep_ids: which experts the tokens of a point of the expert-parallel layer choose: drawn, or from a file. */
#ifndef MOET_EP_IDS_H
#define MOET_EP_IDS_H

#include "ep_bench.h"

/* ids[point->tokens * point->choices], global, of this rank's tokens: distinct experts for each token, by weights of
 * which the i-th is i^-zipf, in an order that is the same for all ranks. The same on every call. */
moet_status moet_ep_ids_draw(const moet_ep_shape *point, int32_t rank, int32_t *ids);

/* The same from DIR/NAME-TOKENS-SKEW.npy, name, tokens and skew being the point's, a slash in them an underscore there:
 * integers [ranks, tokens, choices], -1 for none, no expert twice in a token. NOT_FOUND, IO, or MALFORMED with the file
 * and what is wrong in it. */
moet_status moet_ep_ids_read(const char *dir, const moet_ep_shape *point, int32_t rank, int32_t ranks, int32_t *ids);

#endif

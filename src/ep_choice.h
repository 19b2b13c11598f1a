/* ep_choice: how the expert-parallel layer is run, as a text of a table: "transport=lsa,chunks=1,comm_sms=0". One row a
 * name in ep_choice.c; whatever is none of these (returns, max_tokens, ...) is the caller's to say. */
#ifndef MOET_EP_CHOICE_H
#define MOET_EP_CHOICE_H

#include "ep_comm.h"
#include "moet_ep.h"
#include "table.h"

/* Every name with its value, in a fixed order; what is left open is "auto" or 0. */
void moet_ep_choice_format(const moet_ep_options *options, char text[MOET_EP_CHOICE_SIZE]);
/* The other way; names that the text lacks become open. INVALID for anything else than name=value of known names, each
 * once, and of values within bounds: *options is as it was. Whether the transport exists is not looked at. */
moet_status moet_ep_choice_parse(const char *text, moet_ep_options *options);
/* Whether all of it is left open. */
bool moet_ep_choice_is_open(const moet_ep_options *options);

/* "rows", "sums". */
const char *moet_ep_returns_name(moet_ep_returns returns);

/* How many hosts the ranks are on; one that cannot be told from others counts as one more. Collective. */
moet_status moet_ep_count_hosts(moet_ep_comm *control, int32_t *hosts);

/* What the table says for these experts of one rank, ranks, choices and returns, over so many hosts: of its points the
 * nearest to max_tokens by ln tokens, within MOET_NEAREST_LIMIT, and of equally near ones the one whose busiest rank is
 * least busy. NULL: nothing. Owned by the table, which may be NULL. */
const char *moet_ep_choice_find(const moet_table *table, const moet_problem *local, const moet_ep_options *options,
                                int32_t hosts);

/* Puts the table's choice into *options where they are open and all ranks find the same. Collective; options and table
 * are equal on all ranks, which may be on different devices. */
moet_status moet_ep_choose(const moet_table *table, const moet_problem *local, moet_ep_comm *control,
                           moet_ep_options *options, bool *is_chosen);

#endif

/* emit_ep: the member "ep" of a table's device: how the expert-parallel layer is run best (docs/table-format.md). */
#ifndef MOET_EMIT_EP_H
#define MOET_EMIT_EP_H

#include "store_ep.h"

struct cJSON;

/* Adds a winner to the device's list "ep". Rows come in the order of moet_store_each_ep. false: out of memory. */
bool moet_emit_ep_add(struct cJSON *device, const moet_store_ep_row *row);

#endif

/* show_ep: what a database has of the expert-parallel layer, for moe-tune show. */
#ifndef MOET_SHOW_EP_H
#define MOET_SHOW_EP_H

#include "output.h"
#include "store_ep.h"

/* Winners, or every trial, to stdout. device: as moet_store_filter's device_key. *rows: how many were printed. */
moet_status moet_show_ep(moet_store *store, const char *device, bool trials, moet_output_format format, int64_t *rows);

#endif

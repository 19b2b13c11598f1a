/* emit_bits: which trials of a store have the bits of a class, for tables that keep to one.
 *
 * A trial's bit class is hashes of its output on the workload's seeded inputs, of several scales (bench.h): equal texts
 * of one workload are equal bits, those of two workloads say nothing. So a class goes by who computes it: "seq" is
 * mma_gemm, one accumulator in the order of K, which training's GEMMs without split-K share (docs/numerics.md); any other
 * family names its own. A path family counts as the GEMM family that it is made of. On a workload where the family's
 * trials disagree, or are none, nobody has its bits. */
#ifndef MOET_EMIT_BITS_H
#define MOET_EMIT_BITS_H

#include "store.h"

#define MOET_BITS_SEQ "seq"
#define MOET_BITS_SEQ_FAMILY "mma_gemm"

typedef struct moet_emit_bits {
    int64_t count, capacity;
    int64_t *trials; /* ascending ids */
} moet_emit_bits;

/* Of current trials that are right. device: as moet_store_filter's device_key. INVALID names the classes where name is
 * none. */
moet_status moet_emit_bits_find(moet_store *store, const char *device, const char *name, moet_emit_bits *bits);
void moet_emit_bits_release(moet_emit_bits *bits);
bool moet_emit_bits_has(const moet_emit_bits *bits, int64_t trial_id);

#endif

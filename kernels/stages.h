/* stages: the passes of the expert path that are no GEMM: permute, activation, combine (docs/ffn.md). One
 * implementation a backend (stages_host.c, stages_cuda.c with stages.cu) behind one interface. Everything is
 * asynchronous on `stream` and capturable, allocates nothing, and takes tensors in the device's memory. */
#ifndef MOET_STAGES_H
#define MOET_STAGES_H

#include "../src/family.h"

typedef struct moet_stages moet_stages;

/* For an FFN problem on a device. cubin: compiled kernels from a table; NULL: compile. The device outlives it. max_sms
 * (0: all): permute's launches have no more blocks. The others have no more than so many SMs hold, a few each, which a
 * device that is idle besides spreads over more. */
moet_status moet_stages_create(moet_device *device, const moet_problem *problem, int32_t choices, int64_t max_tokens,
                               int32_t max_sms, const moet_cubin *cubin, moet_stages **stages);
void moet_stages_destroy(moet_stages *stages);
/* The compiled kernels, owned by the stages; NULL on the host. */
const moet_cubin *moet_stages_cubin(const moet_stages *stages);
/* What NVRTC would compile; false: nothing for this compute capability. Equal for all problems. */
bool moet_stages_source(int32_t cc_major, int32_t cc_minor, moet_source *source);

/* Bytes that moet_stages_permute needs beside its outputs, a multiple of 256. */
size_t moet_stages_workspace_bytes(const moet_problem *problem, int32_t choices, int64_t max_tokens, int32_t max_sms,
                                   const moet_device_info *device);
/* For tests: how moet_stages_permute runs for so many tokens; zeros where this build does not know the backend. */
typedef struct moet_stages_grid {
    bool is_many;   /* blocks wait for each other (a cooperative launch) and have counts in the workspace */
    int64_t blocks; /* SMs that it takes; 0: not known */
} moet_stages_grid;
moet_stages_grid moet_stages_permute_grid(const moet_problem *problem, int32_t choices, int64_t tokens, int32_t max_sms,
                                          const moet_device_info *device);

/* Reads ids, weights, tokens or device_tokens of args, writes what of `permuted` is not NULL but x. Ids below -1 or of
 * E and more and all but the first of a repeated expert are taken as -1; rows past max_rows are left out: their places
 * are -1 and counts sum to max_rows at most. More tokens than max_tokens are INVALID; device_tokens are cut to it.
 * target [max_rows] (NULL: not wanted): the token of a row that is the only one of its token, else -1; the first place
 * of such a token is then MOET_STAGES_DIRECT, which moet_stages_combine leaves out.
 * workspace as above, 256-byte aligned, contents unspecified; may be NULL where it has no bytes. */
enum { MOET_STAGES_DIRECT = -2 };
moet_status moet_stages_permute(moet_stages *stages, const moet_ffn_args *args, const moet_permuted *permuted,
                                int64_t max_rows, int32_t *target, void *workspace, void *stream);

/* permuted->x [rows, H] = rows of args->x by permuted->source; the number of rows is the sum of permuted->counts, read
 * on the device. `rows` bounds it. */
moet_status moet_stages_gather(moet_stages *stages, const moet_ffn_args *args, const moet_permuted *permuted,
                               int64_t rows, void *stream);

/* up [rows, 2I] to out [rows, I]. */
moet_status moet_stages_activate(moet_stages *stages, const void *up, const moet_permuted *permuted, int64_t rows,
                                 void *out, void *stream);

/* rows [M, H] to args->out [R, H] by permuted->places (or rowmap) and, with prob COMBINE, permuted->prob. Tokens whose
 * first place is MOET_STAGES_DIRECT have their row in out. */
moet_status moet_stages_combine(moet_stages *stages, const moet_ffn_args *args, const void *rows,
                                const moet_permuted *permuted, void *stream);

#endif

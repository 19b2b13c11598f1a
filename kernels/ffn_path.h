/* ffn_path: families of op FFN made of a family of GEMMs and the stages (stages.h): permute, gather, up GEMM,
 * activation, down GEMM, combine (docs/ffn.md). The descriptor stands in the file of its GEMM family. Its parameters
 * say what is fused, and then are the GEMM family's twice: `up_<name>` and `down_<name>`. Sources and cubins: first the
 * up GEMM's, then, unless it is chained, the down GEMM's, last the stages'. */
#ifndef MOET_KERNELS_FFN_PATH_H
#define MOET_KERNELS_FFN_PATH_H

#include "../src/family.h"

/* The parameters of a GEMM family as a table X(index, name, values, search), with PARAM_COUNT indices. */
#define MOET_PARAM(index, name, values, search) [index] = {name, values, search},
#define MOET_PARAM_UP(index, name, values, search) [MOET_PATH_PARAMS + (index)] = {"up_" name, values, search},
#define MOET_PARAM_DOWN(index, name, values, search)                                                                   \
    [MOET_PATH_PARAMS + PARAM_COUNT + (index)] = {"down_" name, values, search},

/* The path's own. act: the activation in the up GEMM's epilogue, or a pass of its own. gather: x permuted by a pass, or
 * its rows read where they are by the up GEMM. combine: by a pass, or the only row of a token stored to out by the down
 * GEMM, and the other tokens by the pass. chain: a launch for each GEMM, or one for both, which then have the same
 * values and the activation fused. */
enum { MOET_PATH_ACT, MOET_PATH_GATHER, MOET_PATH_COMBINE, MOET_PATH_CHAIN, MOET_PATH_PARAMS };
/* Their values. The first is what a sweep begins with. */
enum { MOET_PATH_ACT_FUSED, MOET_PATH_ACT_PASS, MOET_PATH_ACTS };
enum { MOET_PATH_GATHER_PASS, MOET_PATH_GATHER_FUSED };
enum { MOET_PATH_COMBINE_PASS, MOET_PATH_COMBINE_FUSED };
enum { MOET_PATH_CHAIN_OFF, MOET_PATH_CHAIN_ON };
extern const char *const moet_path_act_values[], *const moet_path_gather_values[], *const moet_path_combine_values[],
    *const moet_path_chain_values[];
#define MOET_PATH_PARAM_TABLE                                                                                          \
    [MOET_PATH_ACT] = {"act", moet_path_act_values, MOET_SEARCH_AROUND},                                               \
    [MOET_PATH_GATHER] = {"gather", moet_path_gather_values, MOET_SEARCH_AROUND},                                      \
    [MOET_PATH_COMBINE] = {"combine", moet_path_combine_values, MOET_SEARCH_AROUND},                                   \
    [MOET_PATH_CHAIN] = {"chain", moet_path_chain_values, MOET_SEARCH_AROUND},
/* Of a path family whose GEMM family has `count`. */
#define MOET_PATH_PARAM_COUNT(count) (MOET_PATH_PARAMS + 2 * (count))

/* A path's version changes with its passes and with its GEMMs'. */
#define MOET_PATH_VERSION(gemm_version) (100 * 2 + (gemm_version))

/* Whether one launch runs both GEMMs; false of what is no path. */
bool moet_ffn_path_is_chained(const moet_config *config);
/* A path's up GEMM (0) or down GEMM (1) as a config of its GEMM family. */
moet_config moet_ffn_path_half(const moet_config *config, int32_t which);

moet_traits moet_ffn_path_traits(const moet_problem *problem, const moet_config *config);
bool moet_ffn_path_applicable(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                              char *why);
void moet_ffn_path_default_config(const moet_problem *problem, int64_t rows_hint, const moet_device_info *device,
                                  moet_config *config);
/* The GEMMs' estimates and what the passes move; 0 where the GEMM family has none. */
double moet_ffn_path_estimate_ns(const moet_problem *problem, const int32_t *counts, int64_t tokens,
                                 const moet_config *config, const moet_device_info *device,
                                 const moet_device_rates *rates);
/* Of both GEMMs; 0 where the GEMM family has none. */
int32_t moet_ffn_path_tile(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                           const moet_device_rates *rates, moet_tiling *tilings);
size_t moet_ffn_path_workspace_bytes(const moet_prepare_args *args);
moet_status moet_ffn_path_prepare(const moet_prepare_args *args, void **state);
moet_status moet_ffn_path_launch(void *state, const moet_family_launch_args *args);
void moet_ffn_path_release(void *state);
moet_status moet_ffn_path_permute(void *state, const moet_ffn_args *args, const moet_permuted *permuted,
                                  void *workspace);
moet_status moet_ffn_path_activate(void *state, const void *up, const moet_permuted *permuted, void *out, void *stream);
moet_status moet_ffn_path_unpermute(void *state, const moet_ffn_args *args, const void *rows,
                                    const moet_permuted *permuted);
int32_t moet_ffn_path_cubins(const void *state, const moet_cubin **list);
bool moet_ffn_path_source(const moet_problem *problem, const moet_config *config, int32_t cc_major, int32_t cc_minor,
                          int32_t index, moet_source *source);

/* The members that are the same for all path families. */
/* clang-format off: it takes a designator for a label here */
#define MOET_PATH_FUNCTIONS                                                                                            \
    .traits = moet_ffn_path_traits, .applicable = moet_ffn_path_applicable,                                            \
    .default_config = moet_ffn_path_default_config, .estimate_ns = moet_ffn_path_estimate_ns,                          \
    .tile = moet_ffn_path_tile, .workspace_bytes = moet_ffn_path_workspace_bytes, .prepare = moet_ffn_path_prepare,    \
    .launch = moet_ffn_path_launch, .release = moet_ffn_path_release,                                                  \
    .permute = moet_ffn_path_permute, .activate = moet_ffn_path_activate, .unpermute = moet_ffn_path_unpermute
/* clang-format on */

#endif

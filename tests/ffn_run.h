/* ffn_run: an expert path on a device, and plans for it, as the tests run them: guarded inputs and outputs, a poisoned
 * workspace between guards. */
#ifndef MOET_FFN_RUN_H
#define MOET_FFN_RUN_H

#include "ffn_path.h"
#include "subject.h"

#include "../src/plan.h"

/* A path's arrays on the device, with the arguments that point to them. */
typedef struct ffn_placed {
    moet_device *device;
    const ffn_path *path;
    test_buffer x, ids, weights, up, up_bias, down, down_bias;
    test_output out;
    moet_ffn_args args;
    int32_t counts[MOET_MAX_EXPERTS]; /* of all tokens */
    int64_t rows;
} ffn_placed;

/* wide: strides longer than rows, with poison between them, and ids of 64 bits. */
void ffn_place(moet_device *device, const ffn_path *path, bool wide, ffn_placed *d);
void ffn_placed_free(ffn_placed *d);

typedef struct ffn_guarded_plan {
    moet_plan *plan;
    void *own; /* the plan's workspace, which the guarded one stands for */
    test_buffer workspace;
} ffn_guarded_plan;

/* For all tokens of the path. */
moet_plan_options ffn_options(const ffn_path *path, bool on_device);
void ffn_plan_create(moet_handle *handle, const ffn_path *path, const moet_plan_options *options, ffn_guarded_plan *g);
/* The guards must be poison still. */
void ffn_plan_free(ffn_guarded_plan *g);

void ffn_poison_workspace(const ffn_guarded_plan *g);
void ffn_poison_out(const ffn_placed *d);
/* Waits for the device; the `tokens` rows of out, densely, into bits; all else must be poison still. */
void ffn_read_out(const ffn_placed *d, int64_t tokens, uint16_t *bits);
/* moet_ffn into poison. */
void ffn_run(const ffn_guarded_plan *g, const ffn_placed *d, const moet_ffn_args *args, int64_t tokens, uint16_t *bits);

/* moet_permute, moet_launch, moet_activate, moet_launch, moet_unpermute of a plan with counts on the device, which stay
 * there: nothing is fused. */
void ffn_run_pieces(const ffn_guarded_plan *g, const ffn_placed *d, bool by_rowmap, uint16_t *bits);
/* The reference's permutation, activation and combine around moet_launch, all on the host: the exact bits there. */
void ffn_run_reference(moet_handle *handle, const ffn_placed *d, uint16_t *bits);

/* A configuration of a path family, in a poisoned workspace. */
typedef struct ffn_prepared {
    moet_device *device;
    moet_config config;
    int64_t max_rows;
    bool on_device; /* where the counts are */
    void *state;
    test_buffer workspace;
} ffn_prepared;

/* options: max_rows, max_tokens and max_sms, as a plan has them. */
void ffn_prepare(moet_device *device, const ffn_path *path, const moet_plan_options *options, const moet_config *config,
                 bool on_device, ffn_prepared *p);
/* rows: of args->counts, where counts are on the host. args->stream is not looked at. */
moet_status ffn_prepared_launch(const ffn_prepared *p, const moet_ffn_args *args, int64_t rows, void *stream);
void ffn_prepared_release(ffn_prepared *p);

/* A path of any kind that a device serves; `nth` takes turns of activation and place of the router weight. */
void ffn_draw(uint64_t *random, int64_t nth, ffn_path *path);
/* A config of a path family that applies, by chance; false: none was met. */
bool ffn_draw_config(uint64_t *random, const moet_family *family, const moet_problem *problem,
                     const moet_device_info *info, moet_config *config);

/* The first `elements` of the path's out: bit for bit, but that any NaN stands for any. */
void ffn_assert_same(const ffn_path *path, const uint16_t *got, const uint16_t *want, int64_t elements,
                     const char *what);

#endif

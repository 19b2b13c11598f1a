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

#endif

/* stages_case: one permutation with its passes on a device, as test_stages runs it: inputs, poisoned outputs between
 * guards, and what must come out by the C reference. */
#ifndef MOET_STAGES_CASE_H
#define MOET_STAGES_CASE_H

#include "subject.h"

#include "../kernels/stages.h"

typedef struct shape {
    int32_t experts, choices;
    int64_t bound, tokens; /* tokens < bound with ON_DEVICE only */
    int64_t max_rows;      /* 0: all that there can be */
    int32_t hidden, inter;
    moet_activation activation;
    moet_prob prob;
    moet_combine combine;
    int32_t none, bad; /* in percent: choices of other ranks, of no expert or a repeated one */
    uint32_t flags;
} shape;

/* value, in labels */
#define FLAG_TABLE(X)                                                                                                  \
    X(INT64, 1, "int64")                                                                                               \
    X(ON_DEVICE, 2, "device_tokens")                                                                                   \
    X(NO_ROWMAP, 4, "no rowmap")                                                                                       \
    X(NO_PLACES, 8, "no places")                                                                                       \
    X(NO_WEIGHTS, 16, "no weights")                                                                                    \
    X(STRIDED, 32, "strided")                                                                                          \
    X(DIRECT, 64, "direct rows")                                                                                       \
    X(FEW_SMS, 128, "3 SMs at most")                                                                                   \
    X(ONE_SM, 256, "1 SM at most")

enum flag {
#define MOET_X(name, value, text) name = value,
    FLAG_TABLE(MOET_X)
#undef MOET_X
};
enum input { IDS, WEIGHTS, X, UP, ROWS, TOKENS, WORKSPACE, INPUT_COUNT };
enum output { COUNTS, PLACES, ROWMAP, SOURCE, PROB, TARGET, GATHERED, ACT, OUT, OUTPUT_COUNT };
extern const char *const fixture_output_names[OUTPUT_COUNT];

typedef struct fixture {
    moet_device *device;
    shape shape;
    moet_problem problem;
    moet_stages *stages;
    int64_t max_rows, rows; /* rows: of this routing, max_rows at most */
    moet_ffn_args given;    /* of host memory */
    moet_ffn_args args;     /* of the device's */
    moet_permuted permuted;
    void *content[INPUT_COUNT]; /* on the host */
    size_t input_bytes[INPUT_COUNT], output_bytes[OUTPUT_COUNT];
    test_buffer input[INPUT_COUNT];
    test_output output[OUTPUT_COUNT];
    uint8_t *expected[OUTPUT_COUNT];
    void *stream;
} fixture;

/* Buffers and stages for a shape. */
void fixture_open(fixture *f, moet_device *device, const shape *s);
void fixture_close(fixture *f);
/* Any numbers, so that the order and the copies show; ids of all kinds. */
void fixture_fill(fixture *f, uint64_t *random);
void fixture_expect(fixture *f);
/* Inputs to the device, poison into the outputs, `dirt` into the workspace. */
void fixture_upload(fixture *f, uint8_t dirt);
/* All stages, one behind the other without a look between. */
void fixture_enqueue(fixture *f);
void fixture_check(fixture *f, const char *label);
/* At most one BF16 step apart, of one sign; NaN is near NaN. */
bool is_near(uint16_t a, uint16_t b);
void shape_label(const shape *s, char label[256]);

#endif

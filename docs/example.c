/* The smallest program that runs a grouped GEMM through libmoet, on the host (any machine).
 *
 *   cc example.c $(pkg-config --cflags --libs moet) -o example && ./example [TABLE_DIR]
 *
 * On a GPU: open "cuda", pass device pointers and your CUstream; the rest is the same. */
#include <stdio.h>
#include <stdlib.h>

#include "moet.h"

enum { E = 4, H = 64, I = 32, M = 10 }; /* up GEMM: x [M, H] times w [E, 2I, H] gives out [M, 2I] */

static uint16_t x[M * H] __attribute__((aligned(16)));
static uint16_t w[E * 2 * I * H] __attribute__((aligned(16)));
static uint16_t out[M * 2 * I] __attribute__((aligned(16)));

static void check(moet_status status)
{
    if (status == MOET_OK) return;
    fprintf(stderr, "%s: %s\n", moet_status_name(status), moet_last_error());
    exit(1);
}

int main(int argc, char **argv)
{
    const int32_t counts[E] = {3, 0, 5, 2}; /* rows of each expert, in order, 10 in all */
    const uint16_t one = 0x3f80;            /* 1.0 in BF16 */
    for (int i = 0; i < M * H; i++) x[i] = one;
    for (int i = 0; i < E * 2 * I * H; i++) w[i] = one;

    moet_handle *handle;
    check(moet_open(argc > 1 ? argv[1] : NULL, "host", &handle));
    for (int i = 0; i < moet_refusal_count(handle); i++) fprintf(stderr, "refused: %s\n", moet_refusal(handle, i));

    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_UP, E, H, I);
    moet_plan_options options = {.max_rows = M};
    moet_plan *plan;
    check(moet_plan_create(handle, &problem, &options, &plan));

    moet_choice choice;
    check(moet_plan_query(plan, counts, &choice));
    printf("%s: %s\n", moet_hit_name(choice.hit), choice.config);

    moet_launch_args args = {.x = x, .w = w, .out = out, .counts = counts};
    check(moet_launch(plan, &args));

    union {
        uint32_t bits;
        float value;
    } first = {.bits = (uint32_t)out[0] << 16};
    printf("out[0][0] = %g (64 expected)\n", (double)first.value);
    moet_plan_destroy(plan);
    moet_close(handle);
    return first.value == 64.0f ? 0 : 1;
}

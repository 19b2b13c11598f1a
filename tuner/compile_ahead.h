/* compile_ahead: compiles kernels on threads of its own into the cubin cache, before they are wanted, so that the
 * device does not wait for the compiler. What is found in the cache is not compiled again; an error is left to who
 * wants the kernel. */
#ifndef MOET_COMPILE_AHEAD_H
#define MOET_COMPILE_AHEAD_H

#include "../src/family.h"

typedef struct moet_compile_ahead moet_compile_ahead;

/* jobs: threads, 1 to MOET_COMPILE_AHEAD_MOST. */
#define MOET_COMPILE_AHEAD_MOST 16
moet_status moet_compile_ahead_create(int32_t jobs, moet_compile_ahead **ahead);
/* Waits for what is being compiled, forgets the rest. NULL is fine. */
void moet_compile_ahead_destroy(moet_compile_ahead *ahead);
/* How many threads a process gets where nobody says, of the processors that it may use: one stays free for timing. */
int32_t moet_compile_ahead_jobs(void);

/* Asks for a config's kernels, behind those that were asked for before. Nothing where its family compiles nothing on
 * this device, or ahead is NULL. */
moet_status moet_compile_ahead_add(moet_compile_ahead *ahead, const moet_problem *problem, const moet_config *config,
                                   const moet_device_info *device);
/* Returns when a config's kernels that were asked for are compiled, or nobody compiles them: those not begun are begun
 * next. Nothing to wait for: at once. */
void moet_compile_ahead_wait(moet_compile_ahead *ahead, const moet_problem *problem, const moet_config *config,
                             const moet_device_info *device);
/* For tests: kernels that were compiled, those found in the cache not counted. */
int32_t moet_compile_ahead_compiled(moet_compile_ahead *ahead);

#endif

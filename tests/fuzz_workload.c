/* libFuzzer: the workload line parser. What it takes must come back from its own text. */
#include <stdlib.h>
#include <string.h>

#include "../tuner/workload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    moet_workload workload, again;
    char *line = NULL;
    if (moet_workload_parse((const char *)data, size, "fuzz:1", &workload) != MOET_OK) return 0;
    int64_t rows = 0;
    for (int32_t e = 0; e < workload.experts; e++) rows += workload.counts[e];
    if (rows != workload.rows) abort();
    if (moet_workload_format(&workload, &line) != MOET_OK) abort();
    if (moet_workload_parse(line, strlen(line), "fuzz:1", &again) != MOET_OK) abort();
    if (strcmp(workload.name, again.name) != 0 || strcmp(workload.skew, again.skew) != 0 ||
        workload.experts != again.experts || workload.seed != again.seed || workload.tokens != again.tokens ||
        memcmp(workload.counts, again.counts, (size_t)workload.experts * sizeof *workload.counts) != 0)
        abort();
    moet_workload_release(&workload);
    moet_workload_release(&again);
    free(line);
    return 0;
}

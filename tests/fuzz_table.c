/* libFuzzer: the table parser, past the hash. Whatever it takes, it must be able to look up and close. */
#include <stdlib.h>

#include "../src/ep_choice.h"
#include "../src/table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static moet_device device = {.info = {.backend = "host", .name = "fuzz", .sm_count = 1}, .key = "fuzz"};
    moet_table *table;
    if (moet_table_parse((const char *)data, size, NULL, false, &device, &table) != MOET_OK) return 0;
    for (int32_t i = 0; i < table->problem_count; i++) {
        const moet_table_problem *p = &table->problems[i];
        moet_table_neighbor list[MOET_TABLE_NEIGHBORS];
        if (moet_table_find(table, &p->problem) != p) abort();
        for (int32_t j = 0; j < p->point_count; j++) {
            const moet_table_point *at = &p->points[j];
            if (moet_table_nearest(p, NULL, at->rows, at->max_over_mean, list) < 1 || list[0].distance != 0) abort();
        }
    }
    for (int32_t i = 0; i < table->ep_count; i++) {
        const moet_table_ep *layer = &table->ep[i];
        moet_ep_options options = {.ranks = layer->ranks, .choices = layer->choices, .returns = layer->returns};
        for (int32_t j = 0; j < layer->point_count; j++) {
            options.max_tokens = layer->points[j].tokens;
            if (!moet_ep_choice_find(table, &layer->problem, &options, layer->hosts)) abort();
            if (moet_ep_choice_parse(layer->points[j].choice, &options) != MOET_OK) abort();
        }
    }
    moet_table_close(table);
    return 0;
}

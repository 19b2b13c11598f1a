/* tuned: the points of a table that are this device's, each with what the table's text says of it and the runtime does
 * not read. */
#ifndef MOET_TUNED_H
#define MOET_TUNED_H

#include "../src/table.h"

typedef struct moet_tuned {
    moet_table *table;
    struct cJSON *text;          /* of the table */
    const struct cJSON *section; /* in it, of this device; NULL: it has none */
} moet_tuned;

typedef struct moet_tuned_point {
    const char *problem_key;
    const moet_table_problem *problem;
    const moet_table_point *point;
    const struct cJSON *object;  /* its text */
    const char *workload, *skew; /* that it was tuned on; "" unknown */
    int64_t tokens;              /* op FFN, of that workload; 0: as many as rows */
} moet_tuned_point;

/* Zero before. Errors of moet_table_load; MISMATCH where the table was replaced meanwhile. */
moet_status moet_tuned_open(const char *dir, const moet_device *device, moet_tuned *tuned);
void moet_tuned_close(moet_tuned *tuned);

/* In the table's order; ends at the first error. */
typedef moet_status (*moet_tuned_visit)(void *context, const moet_tuned_point *point);
moet_status moet_tuned_each(const moet_tuned *tuned, moet_tuned_visit visit, void *context);

/* A member of an object (may be NULL) of the text: "" or 0 where there is none of that type. */
const char *moet_tuned_get_text(const struct cJSON *object, const char *name);
int64_t moet_tuned_get_integer(const struct cJSON *object, const char *name);

#endif

/* report_lines.c: see report_lines.h. */
#include "report_lines.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

#include "parse.h"
#include "peers.h"

static moet_status put_json(FILE *to, cJSON *line, bool complete)
{
    char *text = complete ? cJSON_PrintUnformatted(line) : NULL;
    cJSON_Delete(line);
    if (text == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a point of a report");
    }
    fprintf(to, "%s\n", text);
    free(text);
    return MOET_OK;
}

moet_status moet_report_put_device(FILE *to, const char *name)
{
    cJSON *line = cJSON_CreateObject();
    const bool complete = cJSON_AddStringToObject(line, "device", name) != NULL;
    return put_json(to, line, complete);
}

moet_status moet_report_put_line(FILE *to, const moet_store_trial_row *trial, const moet_problem *problem)
{
    const int64_t tokens = moet_store_problem_tokens(trial->problem_key);
    cJSON *line = cJSON_CreateObject();
    bool complete = cJSON_AddStringToObject(line, "name", trial->workload_name) != NULL &&
                    cJSON_AddNumberToObject(line, "rows", (double)trial->rows) != NULL &&
                    cJSON_AddStringToObject(line, "skew", trial->skew) != NULL &&
                    cJSON_AddStringToObject(line, "op", moet_op_text(problem->op)) != NULL &&
                    cJSON_AddStringToObject(line, "peer", MOET_PEER_OURS) != NULL &&
                    cJSON_AddNumberToObject(line, "time_us", (double)trial->median_ns * 1e-3) != NULL &&
                    cJSON_AddStringToObject(line, "layout", moet_layout_text(problem->layout)) != NULL;
    if (tokens > 0) {
        complete = complete && cJSON_AddNumberToObject(line, "tokens", (double)tokens) != NULL;
    }
    return put_json(to, line, complete);
}

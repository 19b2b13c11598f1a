/* report_lines: a report's winners as the JSON lines that `moe-tune bench` would print of them, so that peers are
 * compared with them in one way. */
#ifndef MOET_REPORT_LINES_H
#define MOET_REPORT_LINES_H

#include <stdio.h>

#include "store.h"

/* The line that names the device, then one a winner. */
moet_status moet_report_put_device(FILE *to, const char *name);
moet_status moet_report_put_line(FILE *to, const moet_store_trial_row *trial, const moet_problem *problem);

#endif

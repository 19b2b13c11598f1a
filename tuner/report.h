/* report: one page that says what a database holds: a summary, pictures, sortable tables, and where each number is
 * from. */
#ifndef MOET_REPORT_H
#define MOET_REPORT_H

#include "plot.h"

typedef struct moet_report_options {
    moet_plot_sources sources; /* dbs[0]; bench: NULL, times of the database's winners stand for ours */
    const char *command;       /* that makes this page again */
} moet_report_options;

/* Writes HTML that needs nothing beside itself into the file path, which is replaced as a whole. Without gnuplot it has
 * no pictures and says so. NOT_FOUND: the database has no winner. */
moet_status moet_report_write(const moet_report_options *options, const char *path);

#endif

/* plot_options: the options by which `plot` and `report` are told what to draw from, but for --db. */
#ifndef MOET_PLOT_OPTIONS_H
#define MOET_PLOT_OPTIONS_H

#include <argp.h>

/* A child of a command's argp; its input is a moet_plot_sources. */
extern const struct argp moet_plot_sources_argp;

#endif

/* label: keys in the short form that text reports show to people; CSV and JSON carry the whole key. */
#ifndef MOET_LABEL_H
#define MOET_LABEL_H

#include "../src/device.h"

/* "up experts=8 hidden=7168 inter=2048", and what differs from moet_problem_init's choices. Any other text is copied.
 * text holds MOET_KEY_SIZE bytes. */
void moet_label_problem(const char *key, char *text);
/* "NVIDIA H100 80GB HBM3 (132 SMs, 700 W)" from a device key; any other text is copied. text holds MOET_DEVICE_KEY_SIZE
 * bytes. */
void moet_label_device(const char *key, char *text);

#endif

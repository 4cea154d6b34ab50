/* SPDX-License-Identifier: MIT */
/*
** status.c: the names of numbers: statuses, states, outcomes; and the version.
*/
#include "internal.h"

#include <string.h>

static const struct {
  const char *name;
  int exit_code;
  const char *meaning;
} statuses[] = {
#define STATUS_ROW(number, name, exit_code, meaning)                           \
  [number] = {"DIBS_" #name, exit_code, meaning},
    DIBS_STATUS_MAP(STATUS_ROW)
#undef STATUS_ROW
};

static bool status_known(int status) {
  return status >= 0 && status < (int)(sizeof statuses / sizeof *statuses);
}

const char *dibs_status_name(int status) {
  return status_known(status) ? statuses[status].name : NULL;
}

const char *dibs_status_meaning(int status) {
  return status_known(status) ? statuses[status].meaning : NULL;
}

int dibs_status_exit_code(int status) {
  return status_known(status) ? statuses[status].exit_code : 9;
}

static const char *const states[] = {
    NULL, "ready", "scheduled", "blocked", "staged", "running", "done", "dead"};
static const char *const outcomes[] = {NULL, "acked", "cancelled", "expired",
                                       "discarded"};

const char *dibs_state_name(int state) {
  return state >= DIBS_READY && state <= DIBS_DEAD ? states[state] : NULL;
}

const char *dibs_outcome_name(int outcome) {
  bool known = outcome >= DIBS_ACKED && outcome <= DIBS_DISCARDED;
  return known ? outcomes[outcome] : NULL;
}

int dibs_state_number(const char *name) {
  for (int state = DIBS_READY; name && state <= DIBS_DEAD; state++)
    if (!strcmp(name, states[state])) return state;
  return 0;
}

const char *dibs_version(void) {
  return DIBS_VERSION;
}

int dibs_version_number(void) {
  return DIBS_VERSION_NUMBER;
}

/* SPDX-License-Identifier: MIT */
/*
** environment.c: owns the variables that tell a command of its job. They are
** all set for every job, so that none is left from a worker around this one.
*/
#include "environment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum variable {
  JOB_ID,
  QUEUE,
  NAME,
  ATTEMPT,
  MAX_ATTEMPTS,
  FINAL,
  HEADERS,
  RECEIPT,
  DB,
  VARIABLES
};

static const char *const VARIABLE[VARIABLES] = {[JOB_ID] = "DIBS_JOB_ID",
                                                [QUEUE] = "DIBS_QUEUE",
                                                [NAME] = "DIBS_NAME",
                                                [ATTEMPT] = "DIBS_ATTEMPT",
                                                [FINAL] = "DIBS_FINAL",
                                                [MAX_ATTEMPTS] =
                                                    "DIBS_MAX_ATTEMPTS",
                                                [HEADERS] = "DIBS_HEADERS",
                                                [RECEIPT] = "DIBS_RECEIPT",
                                                [DB] = "DIBS_DB"};

static int is_ours(const char *entry) {
  for (int i = 0; i < VARIABLES; i++) {
    size_t size = strlen(VARIABLE[i]);
    if (strncmp(entry, VARIABLE[i], size) == 0 && entry[size] == '=') return 1;
  }
  return 0;
}

/* A URI says itself where it is. */
static char *absolute_path(const char *path) {
  char *absolute = NULL;
  if (strncmp(path, "file:", 5) != 0) absolute = realpath(path, NULL);
  return absolute ? absolute : strdup(path);
}

int environment_open(struct environment *environment, const char *db_path) {
  size_t count = 0;
  size_t at = VARIABLES;
  while (environ[count]) count++;
  environment->db_path = absolute_path(db_path);
  environment->list = calloc(VARIABLES + count + 1, sizeof *environment->list);
  if (!environment->list || !environment->db_path) return ENOMEM;
  for (size_t i = 0; i < count; i++)
    if (!is_ours(environ[i])) environment->list[at++] = environ[i];
  return 0;
}

static int set(struct environment *environment, enum variable variable,
               const char *value) {
  char **entry = &environment->list[variable];
  free(*entry);
  if (asprintf(entry, "%s=%s", VARIABLE[variable], value) < 0) *entry = NULL;
  return *entry ? 0 : ENOMEM;
}

static int set_number(struct environment *environment, enum variable variable,
                      int64_t number) {
  char text[24];
  snprintf(text, sizeof text, "%lld", (long long)number);
  return set(environment, variable, text);
}

int environment_fill(struct environment *environment, const dibs_job *job) {
  int final = job->max_attempts != 0 && job->attempt >= job->max_attempts;
  int rc = set_number(environment, JOB_ID, job->id);
  if (!rc) rc = set(environment, QUEUE, job->queue);
  if (!rc) rc = set(environment, NAME, job->name ? job->name : "");
  if (!rc) rc = set_number(environment, ATTEMPT, job->attempt);
  if (!rc) rc = set_number(environment, MAX_ATTEMPTS, job->max_attempts);
  if (!rc) rc = set_number(environment, FINAL, final);
  if (!rc) rc = set(environment, HEADERS, job->headers ? job->headers : "{}");
  if (!rc) rc = set(environment, RECEIPT, job->receipt);
  if (!rc) rc = set(environment, DB, environment->db_path);
  return rc;
}

void environment_close(struct environment *environment) {
  for (int i = 0; environment->list && i < VARIABLES; i++)
    free(environment->list[i]);
  free(environment->list);
  free(environment->db_path);
  environment->list = NULL;
  environment->db_path = NULL;
}

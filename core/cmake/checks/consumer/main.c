/* SPDX-License-Identifier: MIT */
/*
** A user's program: opens the database named on its command line, enqueues a
** job, claims it and acks it. Exits 0 only if each of these did what it says,
** and if the library is the one that the header describes.
*/
#include <dibs.h>
#include <stdio.h>
#include <string.h>

/* Report where it went wrong, and give the exit status for that. */
static int failed(const char *step, dibs_db *db) {
  fprintf(stderr, "%s: %s\n", step, dibs_error(db));
  dibs_close(db);
  return 1;
}

/* Claim the one job there is, check what it carries, and ack it. */
static int work(dibs_db *db, int64_t id) {
  const char *queues[] = {"emails"};
  dibs_job_list *jobs;
  int status;

  if (dibs_claim(db, queues, 1, NULL, &jobs) != DIBS_OK) return 1;
  status = jobs->count != 1 || jobs->jobs[0].id != id ||
           strcmp(jobs->jobs[0].payload.data, "{\"to\":\"ann\"}") != 0 ||
           dibs_ack(db, jobs->jobs[0].receipt, NULL) != DIBS_OK;
  dibs_job_list_free(jobs);
  return status;
}

int main(int argc, char **argv) {
  dibs_db *db;
  int64_t id;

  if (argc != 2) {
    fprintf(stderr, "usage: %s DATABASE\n", argv[0]);
    return 2;
  }
  if (strcmp(dibs_version(), DIBS_VERSION) != 0) {
    fprintf(stderr, "header %s, library %s\n", DIBS_VERSION, dibs_version());
    return 1;
  }
  if (dibs_open(argv[1], NULL, &db) != DIBS_OK) return failed("open", db);
  if (dibs_enqueue(db, "emails", dibs_json("{\"to\":\"ann\"}"), NULL, &id) !=
      DIBS_OK)
    return failed("enqueue", db);
  if (work(db, id) != 0) return failed("claim and ack", db);
  return dibs_close(db) != DIBS_OK;
}

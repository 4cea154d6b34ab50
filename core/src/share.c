/* SPDX-License-Identifier: MIT */
/*
** share.c: enqueues of several threads of a process that share a commit.
**
** Each enqueue is a request in the handle's line. If nobody leads, its thread
** does: it takes the whole line, writes it in one transaction, answers, and hands
** the lead to the next in line, if meanwhile there is one. So whoever comes while
** a commit is under way waits for the next one and shares it, and one that comes
** alone is as fast as if there were no line. Requests that were begun with a
** callback have a thread of the handle in place of their own, the writer, which
** is started by the first of them.
**
** One request's failure does not spoil the others: what is wrong with its
** arguments is found before the transaction, and if the transaction fails, each
** request is tried in one of its own.
*/
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHARED_JOBS 1000 /* in one transaction, but for the last request's */

struct enqueue_request {
  struct enqueue_request *next;
  const dibs_new_job *jobs;
  size_t count;
  dibs_enqueued *results;
  dibs_enqueue_done *callback; /* NULL: a thread waits on the condition */
  void *context;
  pthread_mutex_t mutex; /* for what follows */
  pthread_cond_t changed;
  bool leads; /* its thread is to lead */
  bool done;
  int status;
  int64_t error_id;
  int64_t error_index;
  char message[sizeof((dibs_db *)0)->message];
};

/* ----------------------------------------------------------------- writing */

static void request_answer(const dibs_db *db, struct enqueue_request *request) {
  request->status = db->status;
  if (!db->status) return;
  request->error_id = db->error_id;
  request->error_index = db->error_index;
  memcpy(request->message, db->message, sizeof request->message);
}

/* Those up to `end` that have no error yet, in one transaction. */
static void requests_write(dibs_db *db, struct enqueue_request *first,
                           const struct enqueue_request *end) {
  handle_clear(db);
  sql_begin_write(db);
  for (struct enqueue_request *at = first; at != end && !db->status;
       at = at->next)
    if (!at->status) enqueue_write(db, at->jobs, at->count, at->results);
  sql_end(db);
}

static size_t requests_check(dibs_db *db, struct enqueue_request *first) {
  size_t good = 0;
  for (struct enqueue_request *at = first; at; at = at->next) {
    handle_clear(db);
    enqueue_check(db, at->jobs, at->count);
    request_answer(db, at);
    good += !at->status && at->count;
  }
  handle_clear(db);
  return good;
}

static void requests_run(dibs_db *db, struct enqueue_request *first) {
  size_t good = requests_check(db, first);
  if (good) requests_write(db, first, NULL);
  if (!db->status) return;
  for (struct enqueue_request *at = first; at; at = at->next) {
    if (at->status) continue;
    if (good > 1) requests_write(db, at, at->next);
    request_answer(db, at);
  }
}

/* Write the requests and answer each. */
static void line_write(dibs_db *db, struct enqueue_request *first) {
  int status;
  if (handle_enter(db, &status)) {
    requests_run(db, first);
    handle_clear(db);
    handle_leave(db);
    return;
  }
  for (struct enqueue_request *at = first; at; at = at->next) {
    at->status = status;
    snprintf(at->message, sizeof at->message, "%s", db->message);
  }
}

/* -------------------------------------------------------------------- line */

static void line_add(struct share *share, struct enqueue_request *request) {
  request->next = NULL;
  if (share->last)
    share->last->next = request;
  else
    share->first = request;
  share->last = request;
}

/* The first of the line, at most SHARED_JOBS and what the last brings. */
static struct enqueue_request *line_take(struct share *share) {
  struct enqueue_request *first = share->first, *last = first;
  size_t count = last ? last->count : 0;
  while (last && last->next && count < SHARED_JOBS) {
    last = last->next;
    count += last->count;
  }
  if (!last) return NULL;
  share->first = last->next;
  if (!share->first) share->last = NULL;
  last->next = NULL;
  return first;
}

/* Tell a thread that waits. It has a mutex of its own, so that many who are told
** together do not queue up for one. Once its request is done, the thread may take
** it away. */
static void request_tell(struct enqueue_request *request, bool leads) {
  pthread_mutex_lock(&request->mutex);
  if (leads)
    request->leads = true;
  else
    request->done = true;
  pthread_cond_signal(&request->changed);
  pthread_mutex_unlock(&request->mutex);
}

/* Give the lead away: to a thread that waits, or else to the writer. */
static void lead_pass(struct share *share) {
  struct enqueue_request *at = share->first;
  while (at && at->callback) at = at->next;
  share->leading = at != NULL;
  if (at) {
    request_tell(at, true);
  } else if (share->first) {
    pthread_cond_signal(&share->work);
  }
}

/* The next one leads meanwhile. Callbacks come last, for they may take long. */
static void line_answer(struct share *share, struct enqueue_request *first) {
  struct enqueue_request *callbacks = NULL, **end = &callbacks, *next;
  pthread_mutex_lock(&share->mutex);
  lead_pass(share);
  pthread_mutex_unlock(&share->mutex);
  for (struct enqueue_request *at = first; at; at = next) {
    next = at->next;
    if (at->callback) {
      *end = at;
      end = &at->next;
    } else {
      request_tell(at, false);
    }
  }
  *end = NULL;
  for (struct enqueue_request *at = callbacks; at; at = next) {
    next = at->next;
    at->callback(at->context, at->status, at->message, at->error_id);
    free(at);
  }
}

/* With the mutex, which is let go of: lead once. */
static void line_lead(dibs_db *db) {
  struct share *share = &db->share;
  struct enqueue_request *first = line_take(share);
  share->leading = true;
  pthread_mutex_unlock(&share->mutex);
  if (first) line_write(db, first);
  line_answer(share, first);
}

/* ------------------------------------------------------------------ waiting */

/* The handle's error is that of the last call that returned. One that was never
** open keeps its text. */
static int request_return(dibs_db *db, const struct enqueue_request *request) {
  if (!request->status || request->status == DIBS_CLOSED)
    return request->status;
  pthread_mutex_lock(&db->mutex);
  db->status = request->status;
  db->error_id = request->error_id;
  db->error_index = request->error_index;
  memcpy(db->message, request->message, sizeof db->message);
  pthread_mutex_unlock(&db->mutex);
  return request->status;
}

static bool request_open(struct enqueue_request *request) {
  if (pthread_mutex_init(&request->mutex, NULL)) return false;
  if (!pthread_cond_init(&request->changed, NULL)) return true;
  pthread_mutex_destroy(&request->mutex);
  return false;
}

static void request_close(struct enqueue_request *request) {
  pthread_cond_destroy(&request->changed);
  pthread_mutex_destroy(&request->mutex);
}

/* Until it is done or its thread is to lead: true. */
static bool request_wait(struct enqueue_request *request) {
  pthread_mutex_lock(&request->mutex);
  while (!request->done && !request->leads)
    pthread_cond_wait(&request->changed, &request->mutex);
  bool leads = !request->done;
  request->leads = false;
  pthread_mutex_unlock(&request->mutex);
  return leads;
}

int share_enqueue(dibs_db *db, const dibs_new_job *jobs, size_t count,
                  dibs_enqueued *results) {
  struct enqueue_request request = {
      .jobs = jobs, .count = count, .results = results};
  struct share *share = &db->share;
  if (!request_open(&request)) return DIBS_NOMEM;
  pthread_mutex_lock(&share->mutex);
  line_add(share, &request);
  bool leads = !share->leading;
  if (!leads) pthread_mutex_unlock(&share->mutex);
  if (leads) line_lead(db);
  /* It may have led others only, who stood before it. */
  while (request_wait(&request)) {
    pthread_mutex_lock(&share->mutex);
    line_lead(db);
  }
  request_close(&request);
  return request_return(db, &request);
}

/* ------------------------------------------------------------------- writer */

static void *writer_main(void *context) {
  dibs_db *db = context;
  struct share *share = &db->share;
  pthread_mutex_lock(&share->mutex);
  while (share->first || !share->closing) {
    if (share->first && !share->leading) {
      line_lead(db);
      pthread_mutex_lock(&share->mutex);
    } else {
      pthread_cond_wait(&share->work, &share->mutex);
    }
  }
  pthread_mutex_unlock(&share->mutex);
  return NULL;
}

/* With the mutex. */
static bool writer_start(dibs_db *db) {
  struct share *share = &db->share;
  if (!share->writes)
    share->writes = thread_start(&share->writer, writer_main, db);
  return share->writes;
}

int dibs_enqueue_begin(dibs_db *db, const dibs_new_job *jobs, size_t count,
                       dibs_enqueued *results, dibs_enqueue_done *callback,
                       void *context) {
  if (!db || !callback || db->attached) return DIBS_MISUSE;
  if (db->pid != getpid()) return DIBS_FORKED;
  struct enqueue_request *request = calloc(1, sizeof *request);
  if (!request) return DIBS_NOMEM;
  request->jobs = jobs;
  request->count = count;
  request->results = results;
  request->callback = callback;
  request->context = context;
  struct share *share = &db->share;
  pthread_mutex_lock(&share->mutex);
  if (!writer_start(db)) {
    pthread_mutex_unlock(&share->mutex);
    free(request);
    return DIBS_NOMEM;
  }
  line_add(share, request);
  if (!share->leading) pthread_cond_signal(&share->work);
  pthread_mutex_unlock(&share->mutex);
  return DIBS_OK;
}

bool share_open(struct share *share) {
  if (pthread_mutex_init(&share->mutex, NULL)) return false;
  if (!pthread_cond_init(&share->work, NULL)) return true;
  pthread_mutex_destroy(&share->mutex);
  return false;
}

void share_close(struct share *share) {
  pthread_mutex_lock(&share->mutex);
  share->closing = true;
  pthread_cond_signal(&share->work);
  pthread_mutex_unlock(&share->mutex);
  if (share->writes) pthread_join(share->writer, NULL);
  pthread_cond_destroy(&share->work);
  pthread_mutex_destroy(&share->mutex);
}

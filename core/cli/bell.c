/* SPDX-License-Identifier: MIT */
/*
** bell.c: owns what the engine's threads and the worker's loop share: a list of
** news in the order in which they happened, one flag, and an eventfd that the
** loop polls. The loop silences it before it looks, so no ring is lost.
*/
#include "bell.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int bell_open(struct bell *bell) {
  int rc = pthread_mutex_init(&bell->mutex, NULL);
  if (rc) return rc;
  bell->first = NULL;
  bell->end = &bell->first;
  bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (bell->fd >= 0) return 0;
  rc = errno;
  pthread_mutex_destroy(&bell->mutex);
  return rc;
}

void bell_close(struct bell *bell) {
  struct news *news, *next;
  if (bell->fd < 0) return;
  for (news = bell_take(bell); news; news = next) {
    next = news->next;
    if (!news->slot) news_free(news);
  }
  close(bell->fd);
  bell->fd = -1;
  pthread_mutex_destroy(&bell->mutex);
}

/* ------------------------------------------------------------------------ */
/* The engine's side                                                        */
/* ------------------------------------------------------------------------ */

static void bell_ring(struct bell *bell) {
  eventfd_write(bell->fd, 1);
}

static void bell_add(struct bell *bell, struct news *news) {
  int first;
  news->next = NULL;
  pthread_mutex_lock(&bell->mutex);
  first = !bell->first;
  *bell->end = news;
  bell->end = &news->next;
  pthread_mutex_unlock(&bell->mutex);
  if (first) bell_ring(bell);
}

static void on_ready(void *context) {
  struct bell *bell = context;
  atomic_store(&bell->jobs, 1);
  bell_ring(bell);
}

/* The loop looks at all flags whenever it wakes. */
static void on_flagged(void *context) {
  bell_ring(context);
}

static void on_settled(void *context, const dibs_run *run,
                       const dibs_settlement *outcome) {
  struct news *news = run->context;
  news->settlement = *outcome;
  bell_add(context, news);
}

static void on_log(void *context, const dibs_log_event *event) {
  struct news *news;
  if (strcmp(event->event, "trouble") != 0 &&
      strcmp(event->event, "recovered") != 0)
    return;
  news = calloc(1, sizeof *news);
  if (!news) return; /* a lost line is the lesser evil */
  news->level = event->level;
  news->text = strdup(event->message);
  bell_add(context, news);
}

void bell_attach(struct bell *bell, dibs_open_options *open,
                 dibs_engine_options *options) {
  open->log = on_log;
  open->log_context = bell;
  options->context = bell;
  options->ready = on_ready;
  options->flagged = on_flagged;
  options->settled = on_settled;
}

/* ------------------------------------------------------------------------ */
/* The loop's side                                                          */
/* ------------------------------------------------------------------------ */

struct news *bell_take(struct bell *bell) {
  struct news *first;
  pthread_mutex_lock(&bell->mutex);
  first = bell->first;
  bell->first = NULL;
  bell->end = &bell->first;
  pthread_mutex_unlock(&bell->mutex);
  return first;
}

int bell_has_jobs(struct bell *bell) {
  return atomic_exchange(&bell->jobs, 0);
}

void bell_silence(struct bell *bell) {
  eventfd_t rings;
  eventfd_read(bell->fd, &rings);
}

void news_free(struct news *news) {
  free(news->text);
  free(news);
}

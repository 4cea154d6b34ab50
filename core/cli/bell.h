/* SPDX-License-Identifier: MIT */
/*
** bell.h: what the engine's threads tell the loop of `dibs worker`. They ring,
** and leave news; the loop polls the bell's descriptor and takes them.
*/
#ifndef DIBS_CLI_BELL_H
#define DIBS_CLI_BELL_H

#include <pthread.h>
#include <stdatomic.h>

#include "dibs.h"

/* Something that the engine has told: what became of a job, or how the database
** does. */
struct news {
  struct news *next;
  struct slot *slot;          /* whose job it is; NULL: about the database */
  dibs_settlement settlement; /* of the job; its strings are gone */
  int level;                  /* of the database: enum dibs_level */
  char *text;                 /* of the database; owned */
};

struct bell {
  int fd;                /* readable when it was rung; -1: not open */
  atomic_bool jobs;      /* the engine has jobs, or says that none will come */
  pthread_mutex_t mutex; /* for the list */
  struct news *first;
  struct news **end; /* where the next one goes */
};

/* Returns 0 or errno. */
int bell_open(struct bell *bell);

/* No engine may be left that rings it. News of slots belong to these. */
void bell_close(struct bell *bell);

/* Have an engine ring the bell. The context of each of its runs must be the news
** that are to tell of its end. */
void bell_attach(struct bell *bell, dibs_open_options *open,
                 dibs_engine_options *options);

/* Take the news there are, the oldest first. Those about the database are to be
** freed with news_free(). */
struct news *bell_take(struct bell *bell);

/* Whether the engine has had jobs, or has come to its end, since it was last
** asked. */
int bell_has_jobs(struct bell *bell);

/* Make the descriptor silent until somebody rings again. */
void bell_silence(struct bell *bell);

/* Of the database only. */
void news_free(struct news *news);

#endif

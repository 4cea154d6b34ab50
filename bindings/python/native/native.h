/* SPDX-License-Identifier: MIT */
/*
** native.h: what the files of the extension module _dibs offer each other, from
** the lowest to the highest:
**
**     module      the module, its errors, its clock
**     library     the SQLite libraries of the process, and the connections of
**                 their Python modules
**     values      Python's values as the core's, and jobs as tuples
**     events      what the core has to tell
**     wait        what ends a wait of the main thread
**     handle      a dibs_db as an object: opening, closing, calling
**     operations  the methods of a handle
**     engine      a dibs_engine as an object, and its runs
**     watch       a dibs_watch as an object
**     keeper      a thread that extends leases of jobs claimed by hand
**
** The module is thin and not for users: it speaks in milliseconds, numbers and
** tuples, and the package's Python makes classes of them. It is compiled once
** for all versions of Python (the limited API of 3.10).
**
** Rules: nothing here calls the core with the GIL held, where that may wait,
** touch the disk or take a mutex of the core's; and nothing touches an object of
** Python's without it. A function that returns NULL or -1 has set an exception.
*/
#ifndef DIBS_NATIVE_H
#define DIBS_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "dibs.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* References are counted by the functions of the Python that runs. The macros and
** inline functions are those of the Python whose headers were there, and those of
** before and behind 3.12, where None became immortal, do not go together. */
#undef Py_INCREF
#undef Py_DECREF
#undef Py_XINCREF
#undef Py_XDECREF
#undef Py_NewRef
#undef Py_RETURN_NONE
#undef Py_RETURN_TRUE
#undef Py_RETURN_FALSE
#define Py_INCREF(object)  Py_IncRef((PyObject *)(object))
#define Py_DECREF(object)  Py_DecRef((PyObject *)(object))
#define Py_XINCREF(object) Py_IncRef((PyObject *)(object))
#define Py_XDECREF(object) Py_DecRef((PyObject *)(object))
#define Py_NewRef(object)  reference_new((PyObject *)(object))
#define Py_RETURN_NONE     return Py_NewRef(Py_None)
#define Py_RETURN_TRUE     return Py_NewRef(Py_True)
#define Py_RETURN_FALSE    return Py_NewRef(Py_False)

static inline PyObject *reference_new(PyObject *object) {
  Py_IncRef(object);
  return object;
}

struct sqlite3;
struct sqlite3_api_routines;

/* ------------------------------------------------------------------ module */

/* Raise the error class of a status. `message` may be NULL: the meaning of the
** status. `id` 0 and `index` -1: none. Always NULL. */
PyObject *error_raise(int status, const char *message, int64_t id,
                      int64_t index);

/* Raise the error of an argument: DIBS_INVALID. Always NULL. */
PyObject *error_invalid(const char *format, ...);

/* Hand an event to the package's logger. Without exceptions of its own. */
void event_tell(PyObject *event);

/* A clock that tests drive. */
typedef struct ClockObject {
  PyObject ob_base;
  int64_t now; /* ms since 1970; read by any thread */
} ClockObject;

extern PyTypeObject *clock_type;
int clock_add(PyObject *module);
int64_t clock_now(void *clock);

/* Make a type and add it to the module under the name behind its last dot. */
PyTypeObject *type_add(PyObject *module, PyType_Spec *spec);

/* ----------------------------------------------------------------- library */

typedef struct ProviderObject {
  PyObject ob_base;
  const dibs_provider *provider;
  const struct sqlite3_api_routines *api;
} ProviderObject;

extern PyTypeObject *provider_type;
int library_add(PyObject *module);

/* The sqlite3 * in the integer that is `connection`, NULL with an error. */
struct sqlite3 *connection_pointer(PyObject *address);

/* ------------------------------------------------------------------ values */

/* A sequence of strings, as the core takes them. */
struct names {
  PyObject *tuple;
  const char **items;
  size_t count;
};

/* UTF-8 of a str, which owns it; refused with a NUL inside. None is NULL. */
bool text_get(PyObject *value, const char *what, const char **text);

bool names_get(PyObject *sequence, const char *what, struct names *names);
void names_free(struct names *names);

/* An array of ids from a sequence of ints, to be freed with PyMem_Free(). */
bool ids_get(PyObject *sequence, int64_t **ids, size_t *count);

/* A payload from its kind and its data, a bytes or None, which is borrowed. */
bool payload_get(int kind, PyObject *data, dibs_payload *payload);

/* Options of a job from a dict of ints, floats and strings. */
bool job_options_get(PyObject *dict, dibs_job_options *options);

PyObject *text_object(const char *text);    /* NULL is None */
PyObject *number_object(int64_t number);    /* DIBS_UNSET is None */
PyObject *job_object(const dibs_job *job);  /* a tuple: see job_fields */
PyObject *jobs_object(dibs_job_list *jobs); /* a list; frees `jobs` */
extern const char *const job_fields[];      /* ends with NULL */

/* ------------------------------------------------------------------ events */

struct event;

struct events {
  pthread_mutex_t mutex;
  struct event *newest; /* not yet told; under the mutex */
};

void events_init(struct events *events);
void events_free(struct events *events);

/* dibs_open_options.log: `context` is a struct events. */
void event_note(void *context, const dibs_log_event *event);

/* With an exception set or without; it stays as it is. */
void events_tell(struct events *events);

/* -------------------------------------------------------------------- wait */

/* Whether this is the thread that runs signal handlers; -1 with an error. */
int thread_is_main(void);

/* Around a wait of the main thread, without the GIL: for a handle, or for an
** engine. A signal makes it return DIBS_INTERRUPTED. */
void signals_begin(dibs_db *db, dibs_engine *engine);
void signals_end(void);

int64_t wait_clock(void); /* ms, monotonic */
int64_t wait_left(int64_t timeout, int64_t begin);

/* ------------------------------------------------------------------ handle */

typedef struct HandleObject {
  PyObject ob_base;
  dibs_db *db;       /* NULL: closed */
  PyObject *keeps;   /* what must live as long: provider, connection, clock */
  int calls;         /* under way; under the GIL */
  unsigned enqueues; /* calls of enqueue(); under the GIL */
  bool interrupted;  /* by interrupt(), since arm(); under the GIL */
  struct events events;
} HandleObject;

extern PyTypeObject *handle_type;
int handle_add(PyObject *module);
extern PyMethodDef operations[]; /* the methods of handles */

PyObject *handle_attach(PyObject *type, PyObject *arguments);
PyObject *handle_close(PyObject *object, PyObject *none);
PyObject *handle_interrupt(PyObject *object, PyObject *none);
PyObject *handle_arm(PyObject *object, PyObject *none);

/* What is opened with which settings, a dict. */
bool settings_get(struct events *events, PyObject *settings, PyObject *provider,
                  dibs_open_options *options);

/* The frame of a call: false with an exception when the handle is closed. The
** GIL is let go of between the two, by call_begin() and call_end(). */
bool call_enter(HandleObject *self);

/* End of a call. True for DIBS_OK; false with an exception for all else. */
bool call_leave(HandleObject *self, int status);

/* A call that may wait up to `timeout` ms, without the GIL. `run` is called with
** what is left of it, again after a signal whose handler raised nothing. */
int call_wait(HandleObject *self, int64_t timeout,
              int (*run)(HandleObject *self, int64_t timeout, void *context),
              void *context);

/* Run a statement without the GIL, and give its value to `status`. */
#define CALL(status, expression)                                               \
  do {                                                                         \
    Py_BEGIN_ALLOW_THREADS(status) = (expression);                             \
    Py_END_ALLOW_THREADS                                                       \
  } while (0)

/* A status of call_wait(): a signal's handler has raised an exception. */
#define RAISED (-1)

/* ------------------------------------------------- engine, watch and keeper */

int engine_add(PyObject *module);
int watch_add(PyObject *module);
int keeper_add_type(PyObject *module);

#endif

/* SPDX-License-Identifier: MIT */
/*
** native.h: what the files of the extension module _dibs offer each other, from
** the lowest to the highest:
**
**     module      the module, its errors, its clock
**     library     the SQLite libraries of the process, and the connections of
**                 their Python modules
**     values      Python's values as the core's, and jobs as tuples
**     handle      a dibs_db as an object: opening, closing, calling, waiting
**     operations  the methods of a handle
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

/* The headers of 3.12 leave the reference out, as None is immortal there; not so
** in 3.10 and 3.11, where this module runs too. */
#undef Py_RETURN_NONE
#undef Py_RETURN_TRUE
#undef Py_RETURN_FALSE
#define Py_RETURN_NONE  return Py_NewRef(Py_None)
#define Py_RETURN_TRUE  return Py_NewRef(Py_True)
#define Py_RETURN_FALSE return Py_NewRef(Py_False)

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

/* ------------------------------------------------------------------ handle */

struct event;

typedef struct HandleObject {
  PyObject ob_base;
  dibs_db *db;       /* NULL: closed */
  PyObject *keeps;   /* what must live as long: provider, connection, clock */
  int calls;         /* under way; under the GIL */
  unsigned enqueues; /* calls of enqueue(); under the GIL */
  bool interrupted;  /* by interrupt(), since arm(); under the GIL */
  pthread_mutex_t mutex;
  struct event *events; /* not yet told, newest first; under the mutex */
} HandleObject;

extern PyTypeObject *handle_type;
int handle_add(PyObject *module);
extern PyMethodDef operations[]; /* the methods of handles */

PyObject *handle_attach(PyObject *type, PyObject *arguments);
PyObject *handle_close(PyObject *object, PyObject *none);
PyObject *handle_interrupt(PyObject *object, PyObject *none);
PyObject *handle_arm(PyObject *object, PyObject *none);

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

#endif

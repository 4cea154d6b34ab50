/* SPDX-License-Identifier: MIT */
/*
** values.c: Python's values as the core's, and back. Pointers that go to the core
** point into objects that the caller holds.
*/
#include "native.h"

#include <string.h>

/* -------------------------------------------------------------------- text */

bool text_get(PyObject *value, const char *what, const char **text) {
  Py_ssize_t size;
  *text = NULL;
  if (!value || value == Py_None) return true;
  if (!PyUnicode_Check(value)) {
    PyObject *type =
        PyObject_GetAttrString((PyObject *)Py_TYPE(value), "__name__");
    const char *name = type ? PyUnicode_AsUTF8AndSize(type, NULL) : NULL;
    PyErr_Format(PyExc_TypeError, "%s: a str is wanted, not %s", what,
                 name ? name : "that");
    Py_XDECREF(type);
    return false;
  }
  *text = PyUnicode_AsUTF8AndSize(value, &size);
  if (!*text) {
    PyErr_Clear();
    error_invalid("%s: it is no valid text, because it cannot be encoded in "
                  "UTF-8",
                  what);
    return false;
  }
  if (strlen(*text) == (size_t)size) return true;
  error_invalid("%s: a NUL character is not allowed", what);
  return false;
}

PyObject *text_object(const char *text) {
  if (!text) Py_RETURN_NONE;
  return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

PyObject *number_object(int64_t number) {
  if (number == DIBS_UNSET) Py_RETURN_NONE;
  return PyLong_FromLongLong(number);
}

bool names_get(PyObject *sequence, const char *what, struct names *names) {
  *names = (struct names){.tuple = PySequence_Tuple(sequence)};
  if (!names->tuple) return false;
  names->count = (size_t)PyTuple_Size(names->tuple);
  names->items = PyMem_Calloc(names->count + 1, sizeof *names->items);
  if (!names->items) PyErr_NoMemory();
  for (size_t i = 0; names->items && i < names->count; i++) {
    PyObject *item = PyTuple_GetItem(names->tuple, (Py_ssize_t)i);
    if (item == Py_None) {
      PyErr_Format(PyExc_TypeError, "%s: a str is wanted, not None", what);
      names_free(names);
      return false;
    }
    if (!text_get(item, what, &names->items[i])) {
      names_free(names);
      return false;
    }
  }
  if (names->items) return true;
  names_free(names);
  return false;
}

void names_free(struct names *names) {
  PyMem_Free(names->items);
  names->items = NULL;
  Py_CLEAR(names->tuple);
}

bool ids_get(PyObject *sequence, int64_t **ids, size_t *count) {
  PyObject *tuple = PySequence_Tuple(sequence);
  *ids = NULL;
  if (!tuple) return false;
  *count = (size_t)PyTuple_Size(tuple);
  *ids = PyMem_Calloc(*count + 1, sizeof **ids);
  if (!*ids) PyErr_NoMemory();
  for (size_t i = 0; *ids && i < *count; i++) {
    (*ids)[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, (Py_ssize_t)i));
    if ((*ids)[i] == -1 && PyErr_Occurred()) {
      PyMem_Free(*ids);
      *ids = NULL;
    }
  }
  Py_DECREF(tuple);
  return *ids != NULL;
}

/* ---------------------------------------------------------------- payloads */

bool payload_get(int kind, PyObject *data, dibs_payload *payload) {
  char *bytes;
  Py_ssize_t size;
  *payload = dibs_none();
  if (kind == DIBS_PAYLOAD_NONE) return true;
  if (kind == DIBS_PAYLOAD_JSON && PyUnicode_Check(data)) {
    const char *text = PyUnicode_AsUTF8AndSize(data, &size);
    if (!text) return false;
    *payload = dibs_json_sized(text, (size_t)size);
    return true;
  }
  if (PyBytes_AsStringAndSize(data, &bytes, &size)) return false;
  *payload = kind == DIBS_PAYLOAD_JSON ? dibs_json_sized(bytes, (size_t)size)
                                       : dibs_bytes(bytes, (size_t)size);
  return true;
}

static PyObject *payload_object(const dibs_payload *payload) {
  Py_ssize_t size = (Py_ssize_t)payload->size;
  switch (payload->kind) {
  case DIBS_PAYLOAD_JSON:
    return PyUnicode_DecodeUTF8(payload->data, size, "replace");
  case DIBS_PAYLOAD_BYTES:
    return PyBytes_FromStringAndSize(payload->data, size);
  }
  Py_RETURN_NONE;
}

/* ----------------------------------------------------------------- options */

enum option_kind { OPTION_TEXT, OPTION_NUMBER, OPTION_REAL, OPTION_CHOICE };

static const struct option {
  const char *name;
  enum option_kind kind;
  size_t offset;
} job_options[] = {
#define OPTION(name, kind)                                                     \
  { #name, kind, offsetof(dibs_job_options, name) }
    OPTION(name, OPTION_TEXT),           OPTION(headers, OPTION_TEXT),
    OPTION(priority, OPTION_NUMBER),     OPTION(delay, OPTION_NUMBER),
    OPTION(at, OPTION_NUMBER),           OPTION(expires, OPTION_NUMBER),
    OPTION(max_attempts, OPTION_NUMBER), OPTION(max_crashes, OPTION_NUMBER),
    OPTION(backoff, OPTION_NUMBER),      OPTION(backoff_factor, OPTION_REAL),
    OPTION(backoff_cap, OPTION_NUMBER),  OPTION(backoff_jitter, OPTION_REAL),
    OPTION(lease, OPTION_NUMBER),        OPTION(timeout, OPTION_NUMBER),
    OPTION(keep, OPTION_NUMBER),         OPTION(key, OPTION_TEXT),
    OPTION(limit_key, OPTION_TEXT),      OPTION(unique, OPTION_TEXT),
    OPTION(unique_for, OPTION_NUMBER),   OPTION(unique_scope, OPTION_CHOICE),
    OPTION(on_conflict, OPTION_CHOICE),  OPTION(stage, OPTION_NUMBER),
#undef OPTION
};

static bool option_set(const struct option *option, PyObject *value,
                       dibs_job_options *options) {
  void *place = (char *)options + option->offset;
  switch (option->kind) {
  case OPTION_TEXT: return text_get(value, option->name, place);
  case OPTION_NUMBER: *(int64_t *)place = PyLong_AsLongLong(value); break;
  case OPTION_REAL: *(double *)place = PyFloat_AsDouble(value); break;
  case OPTION_CHOICE: *(int *)place = (int)PyLong_AsLong(value); break;
  }
  return !PyErr_Occurred();
}

bool job_options_get(PyObject *dict, dibs_job_options *options) {
  dibs_job_options_init(options);
  for (size_t i = 0; i < sizeof job_options / sizeof *job_options; i++) {
    PyObject *value = PyDict_GetItemString(dict, job_options[i].name);
    if (value && value != Py_None &&
        !option_set(&job_options[i], value, options))
      return false;
  }
  return true;
}

/* -------------------------------------------------------------------- jobs */

const char *const job_fields[] = {
    "id",         "queue",        "name",          "state",      "outcome",
    "priority",   "kind",         "payload",       "headers",    "key",
    "attempt",    "max_attempts", "crashes",       "created_at", "due_at",
    "claimed_at", "lease_until",  "finished_at",   "worker",     "receipt",
    "last_error", "progress",     "progress_text", "result",     "timeout",
    "lease",      "expires_at",   "errors",        NULL};

static PyObject *real_object(double number) {
  if (number != number) Py_RETURN_NONE;
  return PyFloat_FromDouble(number);
}

static PyObject *errors_object(const dibs_job *job) {
  PyObject *errors = PyTuple_New((Py_ssize_t)job->error_count);
  for (size_t i = 0; errors && i < job->error_count; i++) {
    const dibs_job_error *error = &job->errors[i];
    PyObject *entry =
        Py_BuildValue("(NNNNN)", number_object(error->attempt),
                      number_object(error->at), number_object(error->ms),
                      text_object(error->worker), text_object(error->text));
    if (!entry || PyTuple_SetItem(errors, (Py_ssize_t)i, entry))
      Py_CLEAR(errors);
  }
  return errors;
}

PyObject *job_object(const dibs_job *job) {
  PyObject *fields[] = {
      number_object(job->id),
      text_object(job->queue),
      text_object(job->name),
      text_object(dibs_state_name(job->state)),
      text_object(dibs_outcome_name(job->outcome)),
      number_object(job->priority),
      PyLong_FromLong(job->payload.kind),
      payload_object(&job->payload),
      text_object(job->headers),
      text_object(job->key),
      number_object(job->attempt),
      number_object(job->max_attempts),
      number_object(job->crashes),
      number_object(job->created_at),
      number_object(job->due_at),
      number_object(job->claimed_at),
      number_object(job->lease_until),
      number_object(job->finished_at),
      text_object(job->worker),
      text_object(job->receipt),
      text_object(job->last_error),
      real_object(job->progress),
      text_object(job->progress_text),
      text_object(job->result),
      number_object(job->timeout),
      number_object(job->lease),
      number_object(job->expires_at),
      errors_object(job),
  };
  const size_t count = sizeof fields / sizeof *fields;
  _Static_assert(sizeof fields / sizeof *fields + 1 ==
                     sizeof job_fields / sizeof *job_fields,
                 "each field has a name");
  PyObject *tuple = PyTuple_New((Py_ssize_t)count);
  bool whole = tuple != NULL;
  for (size_t i = 0; i < count; i++) {
    if (!fields[i])
      whole = false;
    else if (tuple)
      PyTuple_SetItem(tuple, (Py_ssize_t)i, fields[i]);
    else
      Py_DECREF(fields[i]);
  }
  if (!whole) Py_CLEAR(tuple);
  return tuple;
}

PyObject *jobs_object(dibs_job_list *jobs) {
  size_t count = jobs ? jobs->count : 0;
  PyObject *list = PyList_New((Py_ssize_t)count);
  for (size_t i = 0; list && i < count; i++) {
    PyObject *job = job_object(&jobs->jobs[i]);
    if (!job || PyList_SetItem(list, (Py_ssize_t)i, job)) Py_CLEAR(list);
  }
  dibs_job_list_free(jobs);
  return list;
}

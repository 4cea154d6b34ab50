/* SPDX-License-Identifier: MIT */
/*
** operations.c: the methods of a handle, each an operation of the core: arguments
** turned into the core's, the call without the GIL, and the outcome as an object.
** Times are milliseconds; DIBS_UNSET (UNSET) is "not given".
*/
#include "native.h"

#include <string.h>

static HandleObject *handle_of(PyObject *object) {
  return (HandleObject *)object;
}

/* ----------------------------------------------------------------- enqueue */

/* The jobs of an enqueue, as the core takes them. */
struct batch {
  PyObject
      *tuple; /* of (queue, kind, data, options): keeps what is pointed to */
  size_t count;
  dibs_new_job *jobs;
  dibs_job_options *options;
  dibs_enqueued *results;
};

static void batch_free(struct batch *batch) {
  PyMem_Free(batch->jobs);
  PyMem_Free(batch->options);
  PyMem_Free(batch->results);
  Py_XDECREF(batch->tuple);
}

static bool batch_fill(struct batch *batch, size_t i) {
  PyObject *queue, *data, *options;
  PyObject *item = PyTuple_GetItem(batch->tuple, (Py_ssize_t)i);
  dibs_new_job *job = &batch->jobs[i];
  int kind;
  if (!PyTuple_Check(item)) {
    PyErr_SetString(PyExc_TypeError, "a job is a tuple");
    return false;
  }
  if (!PyArg_ParseTuple(item, "OiOO", &queue, &kind, &data, &options) ||
      !text_get(queue, "queue", &job->queue) ||
      !payload_get(kind, data, &job->payload))
    return false;
  if (options == Py_None) return true;
  if (!PyDict_Check(options)) {
    PyErr_SetString(PyExc_TypeError, "the options of a job are a dict");
    return false;
  }
  job->options = &batch->options[i];
  return job_options_get(options, &batch->options[i]);
}

/* An error about one of several jobs says which it is. */
static bool batch_get(struct batch *batch, PyObject *sequence) {
  *batch = (struct batch){.tuple = PySequence_Tuple(sequence)};
  if (!batch->tuple) return false;
  batch->count = (size_t)PyTuple_Size(batch->tuple);
  batch->jobs = PyMem_Calloc(batch->count + 1, sizeof *batch->jobs);
  batch->options = PyMem_Calloc(batch->count + 1, sizeof *batch->options);
  batch->results = PyMem_Calloc(batch->count + 1, sizeof *batch->results);
  if (!batch->jobs || !batch->options || !batch->results) {
    PyErr_NoMemory();
    return false;
  }
  for (size_t i = 0; i < batch->count; i++)
    if (!batch_fill(batch, i)) return false;
  return true;
}

static PyObject *batch_results(const struct batch *batch) {
  PyObject *list = PyList_New((Py_ssize_t)batch->count);
  for (size_t i = 0; list && i < batch->count; i++) {
    PyObject *result =
        Py_BuildValue("(LO)", (long long)batch->results[i].id,
                      batch->results[i].existing ? Py_True : Py_False);
    if (!result || PyList_SetItem(list, (Py_ssize_t)i, result)) Py_CLEAR(list);
  }
  return list;
}

/* An error of an argument, whose text is the more helpful one. */
static bool is_about_jobs(int status) {
  return status == DIBS_INVALID || status == DIBS_TOO_BIG ||
         status == DIBS_EXISTS;
}

/* The error text is that of the handle's last call, of whichever thread. When
** there were others meanwhile, what is wrong with these jobs is not known: None
** says that the same should be tried again on a handle of its own. */
static PyObject *enqueue_failed(HandleObject *self, int status) {
  self->calls--;
  if (is_about_jobs(status)) Py_RETURN_NONE;
  return error_raise(status, NULL, 0, -1);
}

static PyObject *operation_enqueue(PyObject *object, PyObject *jobs) {
  HandleObject *self = handle_of(object);
  struct batch batch;
  PyObject *results = NULL;
  int status;
  if (!batch_get(&batch, jobs)) {
    batch_free(&batch);
    return NULL;
  }
  if (call_enter(self)) {
    unsigned enqueues = ++self->enqueues;
    bool alone = self->calls == 1;
    CALL(status,
         dibs_enqueue_many(self->db, batch.jobs, batch.count, batch.results));
    alone = alone && self->enqueues == enqueues;
    if (status && status != DIBS_FORKED && !alone)
      results = enqueue_failed(self, status);
    else if (call_leave(self, status))
      results = batch_results(&batch);
  }
  batch_free(&batch);
  return results;
}

static PyObject *operation_commit(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  long long id;
  int abort, status;
  if (!PyArg_ParseTuple(arguments, "Lp", &id, &abort) || !call_enter(self))
    return NULL;
  CALL(status, abort ? dibs_abort(self->db, id) : dibs_commit(self->db, id));
  if (!call_leave(self, status)) return NULL;
  Py_RETURN_NONE;
}

/* ------------------------------------------------------------------- claim */

struct claim {
  struct names queues;
  dibs_claim_options options;
  dibs_job_list *jobs;
};

static int claim_run(HandleObject *self, int64_t timeout, void *context) {
  struct claim *claim = context;
  claim->options.wait = timeout;
  return dibs_claim(self->db, claim->queues.items, claim->queues.count,
                    &claim->options, &claim->jobs);
}

/* What is there is taken without preparing for a wait. */
static int claim_wait(HandleObject *self, struct claim *claim, int64_t wait) {
  int status;
  CALL(status, claim_run(self, 0, claim));
  if (status != DIBS_EMPTY || wait <= 0) return status;
  return call_wait(self, wait, claim_run, claim);
}

static PyObject *operation_claim(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  struct claim claim = {.options = DIBS_CLAIM_OPTIONS_INIT};
  PyObject *queues, *worker, *result = NULL;
  long long n, lease, wait;
  if (!PyArg_ParseTuple(arguments, "OLLLOpp", &queues, &n, &lease, &wait,
                        &worker, &claim.options.in_order,
                        &claim.options.attached) ||
      !text_get(worker, "worker", &claim.options.worker) ||
      !names_get(queues, "queue", &claim.queues))
    return NULL;
  claim.options.n = n;
  claim.options.lease = lease;
  if (call_enter(self)) {
    int status = claim_wait(self, &claim, wait);
    if (call_leave(self, status == DIBS_EMPTY ? DIBS_OK : status))
      result = jobs_object(claim.jobs);
  }
  names_free(&claim.queues);
  return result;
}

static PyObject *operation_peek(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  struct names names;
  dibs_job_list *jobs = NULL;
  PyObject *queues, *result = NULL;
  long long n;
  int status;
  if (!PyArg_ParseTuple(arguments, "OL", &queues, &n) ||
      !names_get(queues, "queue", &names))
    return NULL;
  if (call_enter(self)) {
    CALL(status, dibs_peek(self->db, names.items, names.count, n, &jobs));
    if (call_leave(self, status == DIBS_EMPTY ? DIBS_OK : status))
      result = jobs_object(jobs);
  }
  names_free(&names);
  return result;
}

/* ------------------------------------------------------------------ settle */

/* (receipt, action, delay, lease, error, result) */
static bool settlement_get(PyObject *tuple, dibs_settlement *settlement) {
  PyObject *receipt, *error, *result;
  long long delay, lease;
  int action;
  if (!PyArg_ParseTuple(tuple, "OiLLOO", &receipt, &action, &delay, &lease,
                        &error, &result) ||
      !text_get(receipt, "receipt", &settlement->receipt) ||
      !text_get(error, "error", &settlement->error))
    return false;
  settlement->action = action;
  settlement->delay = delay;
  settlement->lease = lease;
  return result == Py_None ||
         payload_get(DIBS_PAYLOAD_JSON, result, &settlement->result);
}

static PyObject *settlement_object(const dibs_settlement *settlement) {
  return Py_BuildValue("(iNLNN)", settlement->status,
                       text_object(dibs_state_name(settlement->state)),
                       (long long)settlement->id,
                       number_object(settlement->until),
                       text_object(settlement->message));
}

static PyObject *settlements_object(const dibs_settlement *settlements,
                                    Py_ssize_t count) {
  PyObject *list = PyList_New(count);
  for (Py_ssize_t i = 0; list && i < count; i++) {
    PyObject *outcome = settlement_object(&settlements[i]);
    if (!outcome || PyList_SetItem(list, i, outcome)) Py_CLEAR(list);
  }
  return list;
}

static PyObject *settle_all(HandleObject *self, PyObject *tuple,
                            dibs_settlement *settlements) {
  Py_ssize_t count = PyTuple_Size(tuple);
  int status;
  for (Py_ssize_t i = 0; i < count; i++)
    if (!settlement_get(PyTuple_GetItem(tuple, i), &settlements[i]))
      return NULL;
  if (!call_enter(self)) return NULL;
  CALL(status, dibs_settle(self->db, settlements, (size_t)count));
  if (!call_leave(self, status)) return NULL;
  return settlements_object(settlements, count);
}

/* Several: each has an outcome, and none raises. */
static PyObject *operation_settle(PyObject *object, PyObject *sequence) {
  PyObject *tuple = PySequence_Tuple(sequence), *result = NULL;
  if (!tuple) return NULL;
  size_t count = (size_t)PyTuple_Size(tuple);
  dibs_settlement *settlements = PyMem_Calloc(count + 1, sizeof *settlements);
  if (settlements)
    result = settle_all(handle_of(object), tuple, settlements);
  else
    PyErr_NoMemory();
  PyMem_Free(settlements);
  Py_DECREF(tuple);
  return result;
}

/* One: raises its error, or gives (state, until). */
static PyObject *operation_settle_one(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  dibs_settlement settlement = {0};
  int status;
  if (!settlement_get(arguments, &settlement) || !call_enter(self)) return NULL;
  CALL(status, dibs_settle(self->db, &settlement, 1));
  if (!call_leave(self, status)) return NULL;
  if (settlement.status)
    return error_raise(settlement.status, settlement.message, settlement.id,
                       -1);
  return Py_BuildValue("(NN)", text_object(dibs_state_name(settlement.state)),
                       number_object(settlement.until));
}

static PyObject *operation_checkpoint(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  PyObject *receipt, *data;
  const char *text;
  dibs_payload payload;
  long long lease;
  int kind, status;
  if (!PyArg_ParseTuple(arguments, "OiOL", &receipt, &kind, &data, &lease) ||
      !text_get(receipt, "receipt", &text) ||
      !payload_get(kind, data, &payload) || !call_enter(self))
    return NULL;
  CALL(status, dibs_checkpoint(self->db, text, payload, lease));
  if (!call_leave(self, status)) return NULL;
  Py_RETURN_NONE;
}

static PyObject *operation_progress(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  PyObject *receipt, *note;
  const char *text, *note_text;
  double done;
  int status;
  if (!PyArg_ParseTuple(arguments, "OdO", &receipt, &done, &note) ||
      !text_get(receipt, "receipt", &text) ||
      !text_get(note, "text", &note_text) || !call_enter(self))
    return NULL;
  CALL(status, dibs_progress(self->db, text, done, note_text));
  if (!call_leave(self, status)) return NULL;
  Py_RETURN_NONE;
}

/* -------------------------------------------------------------------- look */

static PyObject *operation_get(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  dibs_job_list *jobs = NULL;
  long long id;
  int status;
  if (!PyArg_ParseTuple(arguments, "L", &id) || !call_enter(self)) return NULL;
  CALL(status, dibs_get(self->db, id, &jobs));
  return call_leave(self, status) ? jobs_object(jobs) : NULL;
}

static PyObject *operation_list(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  dibs_list_options options = DIBS_LIST_OPTIONS_INIT;
  struct names names;
  dibs_job_list *jobs = NULL;
  PyObject *queues, *state, *name, *result = NULL;
  const char *state_name;
  long long after, limit;
  int status;
  if (!PyArg_ParseTuple(arguments, "OOOLLp", &queues, &state, &name, &after,
                        &limit, &options.no_payload) ||
      !text_get(state, "state", &state_name) ||
      !text_get(name, "name", &options.name))
    return NULL;
  options.state = state_name ? dibs_state_number(state_name) : 0;
  if (state_name && !options.state)
    return error_invalid("state: there is no \"%.40s\"; it is ready, "
                         "scheduled, blocked, staged, running, done or dead",
                         state_name);
  options.after = after;
  options.limit = limit;
  if (!names_get(queues, "queue", &names)) return NULL;
  if (call_enter(self)) {
    CALL(status,
         dibs_list(self->db, names.items, names.count, &options, &jobs));
    if (call_leave(self, status)) result = jobs_object(jobs);
  }
  names_free(&names);
  return result;
}

static PyObject *stats_object(const dibs_queue_stats *stats) {
  return Py_BuildValue("(NLLLLLLLNLL)", text_object(stats->queue),
                       (long long)stats->ready, (long long)stats->scheduled,
                       (long long)stats->blocked, (long long)stats->staged,
                       (long long)stats->running, (long long)stats->done,
                       (long long)stats->dead,
                       number_object(stats->oldest_ready_at),
                       (long long)stats->paused, (long long)stats->expired);
}

static PyObject *operation_stats(PyObject *object, PyObject *queues) {
  HandleObject *self = handle_of(object);
  struct names names;
  dibs_stats_list *stats = NULL;
  PyObject *list = NULL;
  int status;
  if (!names_get(queues, "queue", &names)) return NULL;
  if (call_enter(self)) {
    CALL(status, dibs_stats(self->db, names.items, names.count, &stats));
    if (call_leave(self, status)) list = PyList_New((Py_ssize_t)stats->count);
  }
  for (size_t i = 0; list && i < stats->count; i++) {
    PyObject *entry = stats_object(&stats->queues[i]);
    if (!entry || PyList_SetItem(list, (Py_ssize_t)i, entry)) Py_CLEAR(list);
  }
  dibs_stats_list_free(stats);
  names_free(&names);
  return list;
}

static int join_run(HandleObject *self, int64_t timeout, void *context) {
  struct names *names = context;
  return dibs_join(self->db, names->items, names->count, timeout);
}

/* Whether the queues have become empty in time. */
static PyObject *operation_join(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  struct names names;
  PyObject *queues, *result = NULL;
  long long timeout;
  if (!PyArg_ParseTuple(arguments, "OL", &queues, &timeout) ||
      !names_get(queues, "queue", &names))
    return NULL;
  if (call_enter(self)) {
    int status = call_wait(self, timeout, join_run, &names);
    if (call_leave(self, status == DIBS_EMPTY ? DIBS_OK : status))
      result = PyBool_FromLong(status == DIBS_OK);
  }
  names_free(&names);
  return result;
}

struct waited {
  int64_t id;
  int state;
  dibs_job_list *job;
};

static int await_run(HandleObject *self, int64_t timeout, void *context) {
  struct waited *waited = context;
  return dibs_await(self->db, waited->id, timeout, &waited->state,
                    &waited->job);
}

/* (state, jobs), or None when the wait ran out. */
static PyObject *operation_await(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  struct waited waited = {0};
  long long id, timeout;
  if (!PyArg_ParseTuple(arguments, "LL", &id, &timeout) || !call_enter(self))
    return NULL;
  waited.id = id;
  int status = call_wait(self, timeout, await_run, &waited);
  if (!call_leave(self, status == DIBS_EMPTY ? DIBS_OK : status)) return NULL;
  if (status == DIBS_EMPTY) Py_RETURN_NONE;
  return Py_BuildValue("(NN)", text_object(dibs_state_name(waited.state)),
                       jobs_object(waited.job));
}

static PyObject *reasons_object(dibs_reason_list *reasons) {
  PyObject *list = PyList_New((Py_ssize_t)reasons->count);
  for (size_t i = 0; list && i < reasons->count; i++) {
    const dibs_reason *reason = &reasons->reasons[i];
    PyObject *entry = Py_BuildValue(
        "(NNNL)", text_object(reason->reason), text_object(reason->text),
        number_object(reason->at), (long long)reason->id);
    if (!entry || PyList_SetItem(list, (Py_ssize_t)i, entry)) Py_CLEAR(list);
  }
  dibs_reason_list_free(reasons);
  return list;
}

/* Of a job, by its id, or of a queue, by its name. */
static PyObject *operation_explain(PyObject *object, PyObject *what) {
  HandleObject *self = handle_of(object);
  dibs_reason_list *reasons = NULL;
  const char *queue = NULL;
  int64_t id = 0;
  int status;
  if (PyUnicode_Check(what)) {
    if (!text_get(what, "queue", &queue)) return NULL;
  } else {
    id = PyLong_AsLongLong(what);
    if (id == -1 && PyErr_Occurred()) return NULL;
  }
  if (!call_enter(self)) return NULL;
  CALL(status, queue ? dibs_explain_queue(self->db, queue, &reasons)
                     : dibs_explain(self->db, id, &reasons));
  return call_leave(self, status) ? reasons_object(reasons) : NULL;
}

static PyObject *operation_next_event(PyObject *object, PyObject *none) {
  HandleObject *self = handle_of(object);
  int64_t at = DIBS_UNSET;
  int status;
  (void)none;
  if (!call_enter(self)) return NULL;
  CALL(status, dibs_next_event(self->db, &at));
  return call_leave(self, status) ? number_object(at) : NULL;
}

/* ------------------------------------------------------------------ change */

static PyObject *outcomes_object(const dibs_id_outcome *outcomes,
                                 size_t count) {
  PyObject *list = PyList_New((Py_ssize_t)count);
  for (size_t i = 0; list && i < count; i++) {
    PyObject *entry =
        Py_BuildValue("(iNN)", outcomes[i].status,
                      text_object(dibs_state_name(outcomes[i].state)),
                      text_object(outcomes[i].message));
    if (!entry || PyList_SetItem(list, (Py_ssize_t)i, entry)) Py_CLEAR(list);
  }
  return list;
}

typedef int ids_function(dibs_db *db, const int64_t *ids, size_t count,
                         dibs_id_outcome *outcomes, int64_t *changed);

/* A list of (status, state, message), one for each id. */
static PyObject *ids_call(PyObject *object, PyObject *sequence,
                          ids_function *function) {
  HandleObject *self = handle_of(object);
  PyObject *result = NULL;
  int64_t *ids;
  size_t count;
  int status;
  if (!ids_get(sequence, &ids, &count)) return NULL;
  dibs_id_outcome *outcomes = PyMem_Calloc(count + 1, sizeof *outcomes);
  if (!outcomes)
    PyErr_NoMemory();
  else if (call_enter(self)) {
    CALL(status, function(self->db, ids, count, outcomes, NULL));
    if (call_leave(self, status)) result = outcomes_object(outcomes, count);
  }
  PyMem_Free(outcomes);
  PyMem_Free(ids);
  return result;
}

static PyObject *operation_cancel(PyObject *object, PyObject *ids) {
  return ids_call(object, ids, dibs_cancel);
}

static PyObject *operation_requeue(PyObject *object, PyObject *ids) {
  return ids_call(object, ids, dibs_requeue);
}

static PyObject *operation_change(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  dibs_change_options options = DIBS_CHANGE_OPTIONS_INIT;
  long long id, priority, delay, at;
  int status;
  if (!PyArg_ParseTuple(arguments, "LLLL", &id, &priority, &delay, &at) ||
      !call_enter(self))
    return NULL;
  options.priority = priority;
  options.delay = delay;
  options.at = at;
  CALL(status, dibs_change(self->db, id, &options));
  if (!call_leave(self, status)) return NULL;
  Py_RETURN_NONE;
}

static PyObject *skipped_object(int64_t moved, const int64_t *skipped,
                                size_t count) {
  PyObject *list = PyList_New((Py_ssize_t)count);
  for (size_t i = 0; list && i < count; i++) {
    PyObject *id = PyLong_FromLongLong(skipped[i]);
    if (!id || PyList_SetItem(list, (Py_ssize_t)i, id)) Py_CLEAR(list);
  }
  return list ? Py_BuildValue("(LN)", (long long)moved, list) : NULL;
}

/* (moved, ids of those that were skipped) */
static PyObject *operation_redrive(PyObject *object, PyObject *queues) {
  HandleObject *self = handle_of(object);
  struct names names;
  PyObject *result = NULL;
  int64_t moved = 0, *skipped = NULL;
  size_t count = 0;
  int status;
  if (!names_get(queues, "queue", &names)) return NULL;
  if (call_enter(self)) {
    CALL(status, dibs_redrive(self->db, names.items, names.count, &moved,
                              &skipped, &count));
    if (call_leave(self, status))
      result = skipped_object(moved, skipped, count);
  }
  dibs_free(skipped);
  names_free(&names);
  return result;
}

typedef int queues_function(dibs_db *db, const char *const *queues,
                            size_t count, int64_t *changed);

/* How many were changed. */
static PyObject *queues_call(PyObject *object, PyObject *queues,
                             queues_function *function) {
  HandleObject *self = handle_of(object);
  struct names names;
  PyObject *result = NULL;
  int64_t changed = 0;
  int status;
  if (!names_get(queues, "queue", &names)) return NULL;
  if (call_enter(self)) {
    CALL(status, function(self->db, names.items, names.count, &changed));
    if (call_leave(self, status)) result = PyLong_FromLongLong(changed);
  }
  names_free(&names);
  return result;
}

static PyObject *operation_pause(PyObject *object, PyObject *queues) {
  return queues_call(object, queues, dibs_pause);
}

static PyObject *operation_resume(PyObject *object, PyObject *queues) {
  return queues_call(object, queues, dibs_resume);
}

static PyObject *operation_purge(PyObject *object, PyObject *queues) {
  return queues_call(object, queues, dibs_purge);
}

static int clear_waiting(dibs_db *db, const char *const *queues, size_t count,
                         int64_t *removed) {
  return dibs_clear(db, queues, count, 0, removed);
}

static int clear_with_dead(dibs_db *db, const char *const *queues, size_t count,
                           int64_t *removed) {
  return dibs_clear(db, queues, count, 1, removed);
}

static PyObject *operation_clear(PyObject *object, PyObject *arguments) {
  PyObject *queues;
  int dead;
  if (!PyArg_ParseTuple(arguments, "Op", &queues, &dead)) return NULL;
  return queues_call(object, queues, dead ? clear_with_dead : clear_waiting);
}

static PyObject *operation_prune(PyObject *object, PyObject *none) {
  HandleObject *self = handle_of(object);
  int64_t removed = 0;
  int status;
  (void)none;
  if (!call_enter(self)) return NULL;
  CALL(status, dibs_prune(self->db, &removed));
  return call_leave(self, status) ? PyLong_FromLongLong(removed) : NULL;
}

/* ---------------------------------------------------------------- settings */

/* Names and values are strings; a value may be None. */
static PyObject *operation_queue_set(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  PyObject *queue, *settings;
  const char *text, *names[64], *values[64];
  PyObject *key, *value;
  Py_ssize_t place = 0;
  size_t count = 0;
  int status;
  if (!PyArg_ParseTuple(arguments, "OO!", &queue, &PyDict_Type, &settings) ||
      !text_get(queue, "queue", &text))
    return NULL;
  while (PyDict_Next(settings, &place, &key, &value)) {
    if (count == sizeof names / sizeof *names)
      return error_invalid("there are at most 64 settings");
    if (!text_get(key, "setting", &names[count]) ||
        !text_get(value, names[count], &values[count]))
      return NULL;
    count++;
  }
  if (!call_enter(self)) return NULL;
  CALL(status, dibs_queue_set(self->db, text, names, values, count));
  if (!call_leave(self, status)) return NULL;
  Py_RETURN_NONE;
}

static PyObject *operation_queue_show(PyObject *object, PyObject *queue) {
  HandleObject *self = handle_of(object);
  const char *text;
  char *json = NULL;
  int status;
  if (!text_get(queue, "queue", &text) || !call_enter(self)) return NULL;
  CALL(status, dibs_queue_show(self->db, text, &json));
  PyObject *result = call_leave(self, status) ? text_object(json) : NULL;
  dibs_free(json);
  return result;
}

/* ------------------------------------------------------------------ health */

static PyObject *findings_object(dibs_finding_list *findings) {
  PyObject *list = PyList_New((Py_ssize_t)findings->count);
  for (size_t i = 0; list && i < findings->count; i++) {
    const dibs_finding *finding = &findings->findings[i];
    PyObject *entry = Py_BuildValue(
        "(NiNN)", text_object(finding->check), finding->level,
        text_object(finding->message), text_object(finding->advice));
    if (!entry || PyList_SetItem(list, (Py_ssize_t)i, entry)) Py_CLEAR(list);
  }
  dibs_finding_list_free(findings);
  return list;
}

static PyObject *operation_doctor(PyObject *object, PyObject *arguments) {
  HandleObject *self = handle_of(object);
  dibs_finding_list *findings = NULL;
  int thorough, status;
  if (!PyArg_ParseTuple(arguments, "p", &thorough) || !call_enter(self))
    return NULL;
  CALL(status, dibs_doctor(self->db, thorough, &findings));
  return call_leave(self, status) ? findings_object(findings) : NULL;
}

/* (now, schema version, SQLite's version, whether it made the tables) */
static PyObject *operation_facts(PyObject *object, PyObject *none) {
  HandleObject *self = handle_of(object);
  (void)none;
  if (!self->db) return error_raise(DIBS_CLOSED, NULL, 0, -1);
  return Py_BuildValue("(LiNN)", (long long)dibs_now(self->db),
                       dibs_schema_version(self->db),
                       text_object(dibs_sqlite_version(self->db)),
                       PyBool_FromLong(dibs_created(self->db)));
}

PyMethodDef operations[] = {
    {"attach", handle_attach, METH_VARARGS | METH_CLASS,
     "attach(address, connection, settings, provider): a handle on it."},
    {"close", handle_close, METH_NOARGS, "Close it; harmless when it is."},
    {"interrupt", handle_interrupt, METH_NOARGS,
     "Make waits raise InterruptedError from now on."},
    {"arm", handle_arm, METH_NOARGS, "Forget an interrupt()."},
    {"enqueue", operation_enqueue, METH_O,
     "enqueue(jobs): [(id, existing)] for [(queue, kind, data, options)]."},
    {"commit", operation_commit, METH_VARARGS, "commit(id, abort)"},
    {"claim", operation_claim, METH_VARARGS,
     "claim(queues, n, lease, wait, worker, in_order, attached): jobs"},
    {"peek", operation_peek, METH_VARARGS, "peek(queues, n): jobs"},
    {"settle", operation_settle, METH_O,
     "settle([(receipt, action, delay, lease, error, result)]): "
     "[(status, state, id, until, message)]"},
    {"settle_one", operation_settle_one, METH_VARARGS,
     "settle_one(receipt, action, delay, lease, error, result): "
     "(state, until)"},
    {"checkpoint", operation_checkpoint, METH_VARARGS,
     "checkpoint(receipt, kind, data, lease)"},
    {"progress", operation_progress, METH_VARARGS,
     "progress(receipt, done, text)"},
    {"get", operation_get, METH_VARARGS, "get(id): [job]"},
    {"list", operation_list, METH_VARARGS,
     "list(queues, state, name, after, limit, no_payload): jobs"},
    {"stats", operation_stats, METH_O, "stats(queues): a tuple for each"},
    {"join", operation_join, METH_VARARGS, "join(queues, timeout): bool"},
    {"await_job", operation_await, METH_VARARGS,
     "await_job(id, timeout): (state, [job]), or None"},
    {"explain", operation_explain, METH_O,
     "explain(id or queue): [(reason, text, at, id)]"},
    {"next_event", operation_next_event, METH_NOARGS, "next_event(): ms"},
    {"cancel", operation_cancel, METH_O,
     "cancel(ids): [(status, state, message)]"},
    {"requeue", operation_requeue, METH_O,
     "requeue(ids): [(status, state, message)]"},
    {"change", operation_change, METH_VARARGS,
     "change(id, priority, delay, at)"},
    {"redrive", operation_redrive, METH_O, "redrive(queues): (moved, skipped)"},
    {"pause", operation_pause, METH_O, "pause(queues): changed"},
    {"resume", operation_resume, METH_O, "resume(queues): changed"},
    {"purge", operation_purge, METH_O, "purge(queues): removed"},
    {"clear", operation_clear, METH_VARARGS, "clear(queues, dead): removed"},
    {"prune", operation_prune, METH_NOARGS, "prune(): removed"},
    {"queue_set", operation_queue_set, METH_VARARGS,
     "queue_set(queue, settings)"},
    {"queue_show", operation_queue_show, METH_O, "queue_show(queue): JSON"},
    {"doctor", operation_doctor, METH_VARARGS,
     "doctor(thorough): [(check, level, message, advice)]"},
    {"facts", operation_facts, METH_NOARGS,
     "facts(): (now, schema, sqlite, created)"},
    {NULL, NULL, 0, NULL}};

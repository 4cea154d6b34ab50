# SPDX-License-Identifier: MIT
"""The faces of dibs, to be driven: C, SQL and the program.

The C library is called through ctypes, whose structs and prototypes are made of
the header, so that they are in step with it. The SQL functions are those of the
same library, in the SQLite that it is linked with: Python's own sqlite3 may be
another one. Each face does an operation of the contract to a job, and gives the
status, and the count where there is one.
"""

import ctypes
import json
import os
import subprocess

from contract import PROGRAM, Header

HEADER = Header()
UNSET = -(2**63)
HOUR = 3_600_000


class Payload(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int),
        ("reserved", ctypes.c_int),
        ("data", ctypes.c_char_p),
        ("size", ctypes.c_size_t),
    ]


def c_type(kind):
    """The ctypes type for one of the header."""
    plain = {
        "int": ctypes.c_int,
        "int64_t": ctypes.c_int64,
        "size_t": ctypes.c_size_t,
        "double": ctypes.c_double,
        "const char *": ctypes.c_char_p,
        "dibs_payload": Payload,
    }
    if kind.startswith("char["):
        return ctypes.c_char * int(kind[5:-1])
    return plain.get(kind, ctypes.c_void_p)


def struct(name, **more):
    """A struct of the header; `more` are members that Header.struct() cannot
    size."""
    members = [
        (member, more.get(member) or c_type(kind))
        for member, (kind, _) in HEADER.struct(name).items()
    ]
    return type(name, (ctypes.Structure,), {"_fields_": members})


MESSAGE = ctypes.c_char * 240
JobOptions = struct("dibs_job_options")
OpenOptions = struct("dibs_open_options")
ClaimOptions = struct("dibs_claim_options")
ListOptions = struct("dibs_list_options")
ChangeOptions = struct("dibs_change_options")
EngineOptions = struct("dibs_engine_options")
Job = struct("dibs_job")
NewJob = struct("dibs_new_job")
Settlement = struct("dibs_settlement", message=MESSAGE)
IdOutcome = struct("dibs_id_outcome", message=MESSAGE)


class List(ctypes.Structure):
    """What begins every list that the library gives."""

    _fields_ = [("count", ctypes.c_size_t), ("items", ctypes.c_void_p)]


def load():
    """The library, with a prototype for each function."""
    library = ctypes.CDLL(os.environ["DIBS_LIBRARY"])
    for name, parameters in HEADER.functions.items():
        function = getattr(library, name)
        function.argtypes = [c_type(parameter.type) for parameter in parameters]
        function.restype = ctypes.c_int
    for name in ("dibs_status_name", "dibs_state_name", "dibs_error"):
        getattr(library, name).restype = ctypes.c_char_p
    for name in ("dibs_json", "dibs_json_sized", "dibs_bytes", "dibs_none"):
        getattr(library, name).restype = Payload
    library.dibs_error_id.restype = ctypes.c_int64
    return library


LIBRARY = load()
CLOCK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)


def status_name(status):
    return LIBRARY.dibs_status_name(status).decode()


def array(*texts):
    return (ctypes.c_char_p * len(texts))(*texts)


def options(kind, init=None, **given):
    """Options of a struct, what is not given being unset."""
    made = kind()
    if init:
        init(ctypes.byref(made))
    else:
        for name, member in kind._fields_:
            if member is ctypes.c_int64:
                setattr(made, name, UNSET)
        made.size = ctypes.sizeof(made)
    for name, value in given.items():
        setattr(made, name, value)
    return made


def job_options(**given):
    return options(JobOptions, LIBRARY.dibs_job_options_init, **given)


# ---- C -----------------------------------------------------------------------


class C:
    """A handle. Calls give the status; what is given besides is kept."""

    name = "c"

    def __init__(self, path, clock=None, **given):
        self.db = ctypes.c_void_p()
        self.clock = CLOCK(clock) if clock else None
        opening = options(OpenOptions, **given)
        if clock:
            opening.clock = ctypes.cast(self.clock, ctypes.c_void_p)
        status = LIBRARY.dibs_open(
            os.fsencode(path), ctypes.byref(opening), ctypes.byref(self.db)
        )
        assert status == 0, self.error()

    def close(self):
        LIBRARY.dibs_close(self.db)

    def error(self):
        return LIBRARY.dibs_error(self.db).decode()

    def call(self, name, *arguments):
        return getattr(LIBRARY, f"dibs_{name}")(self.db, *arguments)

    def must(self, name, *arguments):
        status = self.call(name, *arguments)
        assert status == 0, f"{name}: {self.error()}"

    def enqueue(self, queue, **given):
        number = ctypes.c_int64()
        self.must(
            "enqueue",
            queue.encode(),
            LIBRARY.dibs_json(b"1"),
            ctypes.byref(job_options(**given)),
            ctypes.byref(number),
        )
        return number.value

    def claim(self, queue):
        """Claim one job; gives its receipt."""
        with self.jobs("claim", array(queue.encode()), 1, None) as (
            status,
            jobs,
        ):
            assert status == 0, f"claim of {queue}: {self.error()}"
            return jobs[0].receipt.decode()

    def settle(self, action, receipt, *arguments):
        self.must(action, receipt.encode(), *arguments)

    def state(self, job):
        """The state that a job is in now, or "absent"."""
        with self.jobs("get", job) as (status, jobs):
            if status_name(status) == "DIBS_NOT_FOUND":
                return "absent"
            assert status == 0, self.error()
            return LIBRARY.dibs_state_name(jobs[0].state).decode()

    def jobs(self, name, *arguments):
        return Jobs(self, name, arguments)

    def do(self, operation, job):
        """Do an operation to a job: its status and count."""
        return getattr(self, f"do_{operation}")(job)

    def plain(self, status, count=None):
        return status_name(status), count

    def counted(self, name, *arguments):
        count = ctypes.c_int64(-1)
        status = self.call(name, *arguments, ctypes.byref(count))
        return self.plain(status, count.value)

    def listed(self, name, *arguments):
        with self.jobs(name, *arguments) as (status, jobs):
            return self.plain(status, len(jobs))

    def by_id(self, name, job):
        outcome = IdOutcome()
        count = ctypes.c_int64()
        numbers = (ctypes.c_int64 * 1)(job.id)
        status = self.call(
            name, numbers, 1, ctypes.byref(outcome), ctypes.byref(count)
        )
        assert status == 0, self.error()
        return self.plain(outcome.status, count.value)

    def given(self, name, *arguments, free):
        """A call with one out-parameter, which is freed."""
        out = ctypes.c_void_p()
        status = self.call(name, *arguments, ctypes.byref(out))
        getattr(LIBRARY, f"dibs_{free}")(out)
        return self.plain(status)

    def do_enqueue(self, job):
        payload = LIBRARY.dibs_json(b"2")
        return self.plain(self.call("enqueue", job.q, payload, None, None))

    def do_commit(self, job):
        return self.plain(self.call("commit", job.id))

    def do_abort(self, job):
        return self.plain(self.call("abort", job.id))

    def do_claim(self, job):
        return self.listed("claim", job.queues, 1, None)

    def do_peek(self, job):
        return self.listed("peek", job.queues, 1, 1)

    def do_ack(self, job):
        return self.plain(self.call("ack", job.r, None))

    def do_retry(self, job):
        return self.plain(self.call("retry", job.r, UNSET, b"broken", None))

    def do_fail(self, job):
        return self.plain(self.call("fail", job.r, b"broken"))

    def do_release(self, job):
        return self.plain(self.call("release", job.r))

    def do_snooze(self, job):
        return self.plain(self.call("snooze", job.r, HOUR))

    def do_discard(self, job):
        return self.plain(self.call("discard", job.r, b"not needed"))

    def do_extend(self, job):
        return self.plain(self.call("extend", job.r, HOUR, None))

    def do_checkpoint(self, job):
        payload = LIBRARY.dibs_json(b"3")
        return self.plain(self.call("checkpoint", job.r, payload, UNSET))

    def do_progress(self, job):
        return self.plain(self.call("progress", job.r, 0.5, b"half"))

    def do_get(self, job):
        return self.listed("get", job.id)

    def do_list(self, job):
        chosen = options(ListOptions, after=job.id - 1, limit=1)
        return self.listed("list", job.queues, 1, ctypes.byref(chosen))

    def do_stats(self, job):
        return self.given("stats", job.queues, 1, free="stats_list_free")

    def do_join(self, job):
        return self.plain(self.call("join", job.queues, 1, 0))

    def do_explain(self, job):
        return self.given("explain", job.id, free="reason_list_free")

    def do_explain_queue(self, job):
        return self.given("explain_queue", job.q, free="reason_list_free")

    def do_await(self, job):
        return self.plain(self.call("await", job.id, 0, None, None))

    def do_cancel(self, job):
        return self.by_id("cancel", job)

    def do_change(self, job):
        chosen = options(ChangeOptions, priority=0)
        return self.plain(self.call("change", job.id, ctypes.byref(chosen)))

    def do_requeue(self, job):
        return self.by_id("requeue", job)

    def do_redrive(self, job):
        count = ctypes.c_int64()
        status = self.call(
            "redrive", job.queues, 1, ctypes.byref(count), None, None
        )
        return self.plain(status, count.value)

    def do_purge(self, job):
        return self.counted("purge", job.queues, 1)

    def do_clear(self, job):
        return self.counted("clear", job.queues, 1, 0)

    def do_prune(self, _):
        return self.counted("prune")

    def do_pause(self, job):
        return self.counted("pause", job.queues, 1)

    def do_resume(self, job):
        return self.counted("resume", job.queues, 1)

    def do_queue_set(self, job):
        names, values = array(b"limit"), array(b"none")
        return self.plain(self.call("queue_set", job.q, names, values, 1))

    def do_queue_show(self, job):
        return self.given("queue_show", job.q, free="free")


class Jobs:
    """A call that gives jobs, which live as long as the `with`."""

    def __init__(self, face, name, arguments):
        self.face, self.name, self.arguments = face, name, arguments
        self.out = ctypes.c_void_p()

    def __enter__(self):
        status = self.face.call(
            self.name, *self.arguments, ctypes.byref(self.out)
        )
        if not self.out:
            return status, []
        found = List.from_address(self.out.value)
        return status, (Job * found.count).from_address(found.items or 0)

    def __exit__(self, *_):
        LIBRARY.dibs_job_list_free(self.out)


# ---- SQL ---------------------------------------------------------------------


class Sqlite:
    """A connection of the SQLite that the library is linked with, which has the
    functions of dibs."""

    # Names of the linked library are found through those that need it.
    api = LIBRARY
    for _name, _kind in (
        ("sqlite3_column_text", ctypes.c_char_p),
        ("sqlite3_errmsg", ctypes.c_char_p),
    ):
        getattr(api, _name).restype = _kind
    api.sqlite3_auto_extension(api.dibs_extension_init)

    def __init__(self, path):
        self.sqlite = ctypes.c_void_p()
        code = self.api.sqlite3_open(
            os.fsencode(path), ctypes.byref(self.sqlite)
        )
        assert code == 0, self.error()

    def close(self):
        assert self.api.sqlite3_close(self.sqlite) == 0, self.error()

    def error(self):
        return self.api.sqlite3_errmsg(self.sqlite).decode()

    def rows(self, sql, *values):
        """The rows as tuples of text; raises what SQLite says."""
        statement = ctypes.c_void_p()
        code = self.api.sqlite3_prepare_v2(
            self.sqlite, sql.encode(), -1, ctypes.byref(statement), None
        )
        assert code == 0, f"{sql}: {self.error()}"
        try:
            self.bind(statement, values)
            found = []
            while (code := self.api.sqlite3_step(statement)) == 100:
                count = self.api.sqlite3_column_count(statement)
                cells = (
                    self.api.sqlite3_column_text(statement, i)
                    for i in range(count)
                )
                found.append(
                    tuple(c.decode() if c is not None else None for c in cells)
                )
            if code != 101:
                raise SqlError(self.error())
            return found
        finally:
            self.api.sqlite3_finalize(statement)

    def bind(self, statement, values):
        for place, value in enumerate(values, 1):
            if isinstance(value, int):
                self.api.sqlite3_bind_int64(
                    statement, place, ctypes.c_int64(value)
                )
            else:
                self.api.sqlite3_bind_text(
                    statement, place, value.encode(), -1, ctypes.c_void_p(-1)
                )


class SqlError(Exception):
    pass


class Sql:
    """The SQL functions: each operation as a statement."""

    name = "sql"
    statements = {
        "enqueue": "SELECT dibs_enqueue(:queue, '2')",
        "claim": "SELECT id FROM dibs_claim(:queue)",
        "ack": "SELECT dibs_ack(:receipt)",
        "retry": 'SELECT dibs_retry(:receipt, \'{"error":"broken"}\')',
        "fail": "SELECT dibs_fail(:receipt, 'broken')",
        "release": "SELECT dibs_release(:receipt)",
        "snooze": "SELECT dibs_snooze(:receipt, '1h')",
        "discard": "SELECT dibs_discard(:receipt, 'not needed')",
        "extend": "SELECT dibs_extend(:receipt, '1h')",
        "checkpoint": "SELECT dibs_checkpoint(:receipt, '3')",
        "stats": "SELECT dibs_stats() WHERE :queue IS NOT NULL",
        "progress": "SELECT dibs_progress(:receipt, 0.5, 'half')",
        "commit": "SELECT dibs_commit(:id)",
        "abort": "SELECT dibs_abort(:id)",
        "change": "SELECT dibs_change(:id, '{\"priority\":0}')",
        "purge": "SELECT dibs_purge(:queue)",
        "prune": "SELECT dibs_prune() WHERE :queue IS NOT NULL",
        "queue_set": "SELECT dibs_queue_set(:queue, '{\"limit\":null}')",
        "queue_show": "SELECT dibs_queue_show(:queue)",
        "explain": "SELECT dibs_explain(:id)",
        "explain_queue": "SELECT dibs_explain_queue(:queue)",
        "cancel": "SELECT dibs_cancel(:id)",
        "requeue": "SELECT dibs_requeue(:id)",
        "redrive": "SELECT dibs_redrive(:queue)",
        "clear": "SELECT dibs_clear(:queue)",
        "pause": "SELECT dibs_pause(:queue)",
        "resume": "SELECT dibs_resume(:queue)",
    }
    counted = frozenset(
        "cancel requeue redrive clear purge prune pause resume".split()
    )

    def __init__(self, path):
        self.sqlite = Sqlite(path)

    def close(self):
        self.sqlite.close()

    def do(self, operation, job):
        sql = self.statements[operation]
        values = {"receipt": job.receipt, "id": job.id, "queue": job.queue}
        (name,) = [name for name in values if f":{name}" in sql]
        try:
            rows = self.sqlite.rows(sql, values[name])
        except SqlError as error:
            return str(error).partition(":")[0], None
        return "DIBS_OK", int(rows[0][0]) if operation in self.counted else None


# ---- The program -------------------------------------------------------------


def run(path, *words):
    return subprocess.run(
        [PROGRAM, "--db", path, "--json", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )


class Program:
    """The program with --json: each operation as a command line."""

    name = "program"
    commands = {
        "enqueue": "enqueue -q QUEUE 2",
        "commit": "commit ID",
        "abort": "abort ID",
        "claim": "claim -q QUEUE",
        "peek": "peek -q QUEUE",
        "ack": "ack RECEIPT",
        "retry": "retry RECEIPT --error broken",
        "fail": "fail RECEIPT --error broken",
        "release": "release RECEIPT",
        "snooze": "snooze RECEIPT --delay 1h",
        "discard": "discard RECEIPT --error unneeded",
        "extend": "extend RECEIPT --lease 1h",
        "checkpoint": "checkpoint RECEIPT 3",
        "progress": "progress RECEIPT 0.5 half",
        "get": "get ID",
        "list": "list -q QUEUE --after BEFORE --limit 1",
        "stats": "stats -q QUEUE",
        "explain": "explain ID",
        "explain_queue": "explain -q QUEUE",
        "await": "wait ID --timeout 0",
        "cancel": "cancel ID",
        "change": "change ID --priority 0",
        "requeue": "dead requeue ID",
        "redrive": "dead redrive -q QUEUE",
        "purge": "dead purge -q QUEUE",
        "clear": "clear -q QUEUE",
        "prune": "prune",
        "pause": "queue pause QUEUE",
        "resume": "queue resume QUEUE",
        "queue_set": "queue set QUEUE --limit none",
        "queue_show": "queue show QUEUE",
    }

    def __init__(self, path):
        self.path = path
        self.exit_code = None

    def close(self):
        pass

    def do(self, operation, job):
        words = {
            "QUEUE": job.queue,
            "ID": str(job.id),
            "RECEIPT": job.receipt,
            "BEFORE": str(job.id - 1),
        }
        line = [words.get(w, w) for w in self.commands[operation].split()]
        done = run(self.path, *line)
        rows = [json.loads(row) for row in done.stdout.splitlines()]
        errors = [json.loads(row)["error"] for row in done.stderr.splitlines()]
        assert len(errors) <= 1, errors
        self.exit_code = done.returncode
        status = errors[0]["status"] if errors else "DIBS_OK"
        count = rows[0].get("count") if rows else None
        return status, len(rows) if operation == "list" else count

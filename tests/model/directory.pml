/* directory.pml - EG_DIR_TABLE of client/threads/eg_dir.h with home, two workers and one page: every schedule. Change them together.
 *
 * Checked: never two writers nor a writer and a reader; no stale read; no answer that nobody awaits; no stream longer than the
 * protocol can need; and nobody waits for ever: a thread may stop for good after any access, so that one which is never granted
 * is left in a state that is no valid end (Spin's "invalid end state"). Not checked: fairness between threads that never stop. */

/* Threads: home and worker 2 have one each, worker 1 has THREADS. Two: one may ask while the other's request is on its way. */
#ifndef THREADS
#define THREADS 2
#endif
#define AGENTS 3
#define AT_HOME 0
#define SLOTS (THREADS + 2)

/* States, in eg_dir.h's order: from WAIT_ACKS on the page is busy. */
#define HOME 0
#define SHARED 1
#define OWNED 2
#define WAIT_ACKS 3
#define WAIT_DATA 4
#define WAIT_KEPT 5
#define BUSY (state >= WAIT_ACKS)

mtype = { READ, WRITE, ACK, DATA, GRANT, INVALIDATE, RECALL, RECALL_COPY, NOTHING };

#define NONE 0
#define MAY_READ 1
#define MAY_WRITE 2

/* Kind, slot, to write, with content, the content. Of one worker at most its threads' messages and one invalidation, recall or answer
 * to it are under way. */
chan to[AGENTS] = [THREADS + 1] of { mtype, byte, bit, bit, bit };
chan from[AGENTS] = [THREADS + 1] of { mtype, byte, bit };
chan line = [SLOTS] of { byte, byte, mtype };

/* The copies: right and content. `last` is the reference, what was written last. One bit of content is enough: whatever lets a copy go
 * stale does so for a single write too, and a single write changes the bit. */
byte right[AGENTS];
bit value[AGENTS];
bit last;
bit granted[SLOTS];

/* struct eg_dir_page */
byte state, sharers, owner, for_agent, for_slot;
bit had_copy;

#define BIT(a) (((a) == AT_HOME) -> 0 : (1 << (a)))
#define HOLDS(a) \
    ((state == HOME && (a) == AT_HOME) || (state == SHARED && ((a) == AT_HOME || (sharers & BIT(a)))) || \
     (state == OWNED && (a) != AT_HOME && owner == (a)))

inline coherent()
{
    assert(right[0] != MAY_WRITE || (right[1] == NONE && right[2] == NONE));
    assert(right[1] != MAY_WRITE || (right[0] == NONE && right[2] == NONE));
    assert(right[2] != MAY_WRITE || (right[0] == NONE && right[1] == NONE));
}

/* --- eg_dir_ops ----------------------------------------------------------------------------------------------------------------- */

inline op_grant(a, s, w, d)
{
    if
    :: a == AT_HOME ->
        assert(right[0] != NONE);
        right[0] = (w -> MAY_WRITE : MAY_READ);
        granted[s] = 1
    :: else ->
        assert(!(d) || (right[0] != NONE && value[0] == last));
        assert(nfull(to[a]));
        to[a]!GRANT(s, w, d, value[0]);
        if
        :: w -> right[0] = NONE; value[0] = 0
        :: else
        fi
    fi;
    coherent()
}

inline op_store(w)
{
    assert(right[0] == NONE);
    value[0] = content;
    right[0] = (w -> MAY_WRITE : MAY_READ)
}

inline op_send(a, what)
{
    assert(nfull(to[a]));
    to[a]!what(0, 0, 0, 0)
}

/* give() of dir.c. */
inline give(a, s, d)
{
    sharers = 0;
    owner = a;
    state = (a == AT_HOME -> HOME : OWNED);
    op_grant(a, s, 1, d)
}

/* --- the table: one branch for each row ----------------------------------------------------------------------------------------- */

inline step()
{
    if
    :: BUSY && (event == READ || event == WRITE) -> /* QUEUE */
        assert(nfull(line));
        line!agent, slot, event
    :: state == HOME && event == READ ->
        if
        :: HOLDS(agent) -> op_grant(agent, slot, 1, 0)
        :: else ->
            assert(right[0] == MAY_WRITE);
            right[0] = MAY_READ; /* protect */
            state = SHARED;
            sharers = sharers | BIT(agent);
            op_grant(agent, slot, 0, 1)
        fi
    :: state == HOME && event == WRITE ->
        if
        :: HOLDS(agent) -> op_grant(agent, slot, 1, 0)
        :: else -> give(agent, slot, 1)
        fi
    :: state == SHARED && event == READ ->
        if
        :: HOLDS(agent) -> op_grant(agent, slot, 0, 0)
        :: else ->
            sharers = sharers | BIT(agent);
            op_grant(agent, slot, 0, 1)
        fi
    :: state == SHARED && event == WRITE ->
        had_copy = HOLDS(agent);
        sharers = sharers & ~BIT(agent);
        if
        :: sharers == 0 -> give(agent, slot, !had_copy)
        :: else ->
            for_agent = agent;
            for_slot = slot;
            state = WAIT_ACKS;
            if
            :: sharers & BIT(1) -> op_send(1, INVALIDATE)
            :: else
            fi;
            if
            :: sharers & BIT(2) -> op_send(2, INVALIDATE)
            :: else
            fi
        fi
    :: state == OWNED && (event == READ || event == WRITE) ->
        if
        :: HOLDS(agent) -> op_grant(agent, slot, 1, 0)
        :: else ->
            for_agent = agent;
            for_slot = slot;
            if
            :: event == READ -> state = WAIT_KEPT; op_send(owner, RECALL_COPY)
            :: else -> state = WAIT_DATA; op_send(owner, RECALL)
            fi
        fi
    :: state == WAIT_ACKS && event == ACK ->
        assert(sharers & BIT(agent));
        if
        :: sharers == BIT(agent) -> give(for_agent, for_slot, !had_copy)
        :: else -> sharers = sharers & ~BIT(agent)
        fi
    :: state == WAIT_DATA && event == DATA ->
        assert(owner == agent);
        op_store(for_agent == AT_HOME);
        give(for_agent, for_slot, for_agent != AT_HOME)
    :: state == WAIT_KEPT && event == DATA ->
        assert(owner == agent);
        op_store(0);
        state = SHARED;
        sharers = BIT(agent) | BIT(for_agent);
        op_grant(for_agent, for_slot, 0, 1)
    :: else -> assert(false) /* -EPROTO: a worker that keeps to the protocol never sees it */
    fi
}

proctype Home()
{
    byte agent, slot;
    mtype event;
    bit content, more;
end:
    do
    :: atomic {
        if
        :: from[0]?event, slot, content -> agent = 0
        :: from[1]?event, slot, content -> agent = 1
        :: from[2]?event, slot, content -> agent = 2
        fi;
        more = 1;
        do
        :: more ->
            step();
            if
            :: !BUSY && nempty(line) -> line?agent, slot, event /* those in line, until one of them begins another transaction */
            :: BUSY || empty(line) -> more = 0
            fi
        :: !more -> break
        od;
        agent = 0; slot = 0; event = NOTHING; content = 0
    }
    od
}

/* --- workers: compute/worker.c -------------------------------------------------------------------------------------------------- */

/* The stream of worker `a`. An invalidation or recall may be put off while grants come. */
proctype Worker(byte a)
{
    mtype what, later = NOTHING;
    byte slot;
    bit w, d, content;
end:
    do
    :: atomic {
        to[a]?what, slot, w, d, content ->
        if
        :: what == GRANT && d ->
            assert(right[a] == NONE);
            right[a] = (w -> MAY_WRITE : MAY_READ);
            value[a] = content;
            granted[slot] = 1
        :: what == GRANT && !d ->
            assert(right[a] != NONE);
            right[a] = (w -> MAY_WRITE : right[a]);
            granted[slot] = 1
        :: else ->
            assert(later == NOTHING);
            later = what
        fi;
        coherent();
        what = NOTHING; slot = 0; w = 0; d = 0; content = 0
    }
    :: atomic {
        later != NOTHING ->
        assert(nfull(from[a]));
        if
        :: later == INVALIDATE ->
            assert(right[a] == MAY_READ);
            from[a]!ACK(0, 0);
            right[a] = NONE
        :: else ->
            assert(right[a] == MAY_WRITE);
            from[a]!DATA(0, value[a]);
            right[a] = (later == RECALL_COPY -> MAY_READ : NONE)
        fi;
        if
        :: right[a] == NONE -> value[a] = 0
        :: else
        fi;
        later = NOTHING
    }
    od
}

/* A thread asks when it has not the right, waits for its grant, and tries again: the copy may have gone by then. */
proctype Thread(byte a; byte slot)
{
    mtype want = NOTHING;
idle:
    atomic {
        if
        :: want = READ
        :: want = WRITE
        :: goto done
        fi;
try:
        if
        :: want == READ && right[a] != NONE ->
            assert(value[a] == last);
            want = NOTHING;
            goto idle
        :: want == WRITE && right[a] == MAY_WRITE ->
            assert(value[a] == last);
            last = 1 - last;
            value[a] = last;
            want = NOTHING;
            goto idle
        :: else ->
            assert(nfull(from[a]));
            from[a]!want(slot, 0)
        fi
    }
    atomic {
        granted[slot] -> granted[slot] = 0;
        goto try
    }
done:
    skip
}

init
{
    byte i;
    atomic {
        right[AT_HOME] = MAY_WRITE;
        run Home();
        run Worker(1);
        run Worker(2);
        run Thread(0, 0);
        run Thread(2, 1);
        for (i : 2 .. SLOTS - 1) {
            run Thread(1, i)
        }
    }
}

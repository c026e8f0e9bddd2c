/* directory.pml - EG_DIR_TABLE of client/threads/eg_dir.h with home, two workers and one page: every schedule. Change them together.
 *
 * Checked: never two writers nor a writer and a reader; no stale read; no answer that nobody awaits; no stream longer than the
 * protocol can need; and nobody waits for ever: a thread may stop for good after any access, so that one which is never granted
 * is left in a state that is no valid end (Spin's "invalid end state"). Not checked: fairness between threads that never stop. */

/* Threads: home and worker 2 have one each, worker 1 has THREADS. Two: one may ask while the other's request is on its way, and take its
 * grant while the other's is. */
#ifndef THREADS
#define THREADS 2
#endif
#ifndef CALLS
#define CALLS 1 /* memory calls that discard the page */
#endif
#define AGENTS 3
#define AT_HOME 0
#define SLOTS (THREADS + 2)
#define NOBODY SLOTS /* the slot of what is read ahead */

/* States, in eg_dir.h's order: from WAIT_ACKS on the page is busy. */
#define HOME 0
#define SHARED 1
#define OWNED 2
#define WAIT_ACKS 3
#define WAIT_DATA 4
#define WAIT_KEPT 5
#define WAIT_GONE 6
#define BUSY (state >= WAIT_ACKS)

/* OTHER: a request of worker 1 for another page, of which nothing is known here but that its answer has a number, too. While a page is being
 * recalled, only such grants are sent: without them, a worker could as well count what its threads have taken, and not look at the numbers. */
mtype = { READ, WRITE, OTHER, ACK, DATA, GIVEN, CROSSED, DROPPED, GRANT, INVALIDATE, RECALL, RECALL_COPY, DROP, NOTHING };

#define NONE 0
#define MAY_READ 1
#define MAY_WRITE 2

/* enum eg_dir_content */
#define NO_CONTENT 0
#define OF_HOME 1
#define INCOMING 2

/* The coherence streams. To a worker: kind, to write, with content, the content; at most one invalidation or recall of the page is under way,
 * and before it grants that nobody waits for, to read, then to write, and what goes back that it gave. From it: kind, slot, the content; its threads' requests, one
 * answer, and the page that one of them gives. */
chan to[AGENTS] = [4] of { mtype, bit, bit, bit };
chan from[AGENTS] = [THREADS + 2] of { mtype, byte, bit };
/* The threads' own streams: the grant that the thread waits for. To write, with content, the content. */
chan to_thread[SLOTS] = [1] of { bit, bit, bit };
chan line = [SLOTS + 1] of { byte, byte, mtype };

/* The copies: right and content. `last` is the reference, what was written last. One bit of content is enough: whatever lets a copy go
 * stale does so for a single write too, and a single write changes the bit. */
byte right[AGENTS];
bit value[AGENTS];
bit last;

/* Grants on the streams of one worker's threads are numbered. Only their order matters, so that those which are not taken yet are 1 to n_granted
 * here: when one is taken, the higher numbers fall. `barrier` is the number that goes with the worker's invalidation or recall: of the last
 * grant before it; it falls with each of those, and at 0 all have been taken. */
byte number[SLOTS];
byte n_granted[AGENTS];
byte barrier[AGENTS];

/* All grants to the worker had been taken when it gave the page, and none was sent since. */
bit settled[AGENTS];

/* A memory call discards the page: from then on, until the workers have dropped it, requests are parked. What is given meanwhile goes back, until they are asked
 * to drop it; then it is nobody's. */
bit held;
byte n_called, n_drops;
chan parked = [SLOTS] of { byte, byte, mtype };

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

/* A worker's grant is sent in another step (grant_send), when home's copy has gone: home's threads run in between. */
inline op_grant(a, s, w, c)
{
    if
    :: a == AT_HOME ->
        assert(right[0] != NONE);
        right[0] = (w -> MAY_WRITE : MAY_READ);
        to_thread[s]!0, 0, 0
    :: else ->
        assert(c != OF_HOME || (right[0] != NONE && value[0] == last));
        assert(c != INCOMING || right[0] == (w -> NONE : MAY_READ));
        out_agent = a;
        out_slot = s;
        out_write = w;
        out_data = c != NO_CONTENT;
        out = (c == NO_CONTENT -> 0 : (c == OF_HOME -> value[0] : content));
        if
        :: w -> right[0] = NONE; value[0] = 0
        :: else
        fi
    fi;
    coherent()
}

inline grant_send()
{
    settled[out_agent] = 0;
    if
    :: out_slot == NOBODY ->
        assert(nfull(to[out_agent]));
        to[out_agent]!GRANT, out_write, out_data, out
    :: else ->
        assert(empty(to_thread[out_slot]) && !number[out_slot]);
        n_granted[out_agent]++;
        number[out_slot] = n_granted[out_agent];
        to_thread[out_slot]!out_write, out_data, out
    fi;
    out_agent = AT_HOME; out_slot = 0; out_write = 0; out_data = 0; out = 0
}

inline op_store(w)
{
    assert(right[0] == NONE);
    value[0] = content;
    right[0] = (w -> MAY_WRITE : MAY_READ)
}

inline op_send(a, what)
{
    assert(nfull(to[a]) && !barrier[a]);
    barrier[a] = n_granted[a];
    to[a]!what(0, 0, 0)
}

/* give() of dir.c. */
inline give(a, s, c)
{
    sharers = 0;
    owner = a;
    state = (a == AT_HOME -> HOME : OWNED);
    op_grant(a, s, 1, c)
}

/* --- the table: one branch for each row ----------------------------------------------------------------------------------------- */

inline step()
{
    if
    :: event == READ && (state == HOME || state == OWNED) && !HOLDS(agent) ->
        if
        :: event = WRITE /* the history calls the page migratory */
        :: skip
        fi
    :: else
    fi;
    if
    :: BUSY && (event == READ || event == WRITE) -> /* QUEUE */
        assert(nfull(line));
        line!agent, slot, event
    :: state == HOME && event == READ ->
        if
        :: HOLDS(agent) -> op_grant(agent, slot, 1, NO_CONTENT)
        :: else ->
            assert(right[0] == MAY_WRITE);
            right[0] = MAY_READ; /* protect */
            state = SHARED;
            sharers = sharers | BIT(agent);
            op_grant(agent, slot, 0, OF_HOME)
        fi
    :: state == HOME && event == WRITE ->
        if
        :: HOLDS(agent) -> op_grant(agent, slot, 1, NO_CONTENT)
        :: else -> give(agent, slot, OF_HOME)
        fi
    :: state == SHARED && event == READ ->
        if
        :: HOLDS(agent) -> op_grant(agent, slot, 0, NO_CONTENT)
        :: else ->
            sharers = sharers | BIT(agent);
            op_grant(agent, slot, 0, OF_HOME)
        fi
    :: state == SHARED && event == WRITE ->
        had_copy = HOLDS(agent);
        sharers = sharers & ~BIT(agent);
        if
        :: sharers == 0 -> give(agent, slot, (had_copy -> NO_CONTENT : OF_HOME))
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
        :: HOLDS(agent) -> op_grant(agent, slot, 1, NO_CONTENT)
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
        :: sharers == BIT(agent) -> give(for_agent, for_slot, (had_copy -> NO_CONTENT : OF_HOME))
        :: else -> sharers = sharers & ~BIT(agent)
        fi
    :: state == WAIT_DATA && event == DATA ->
        assert(owner == agent);
        if
        :: for_agent == AT_HOME -> op_store(1); give(for_agent, for_slot, NO_CONTENT)
        :: else -> give(for_agent, for_slot, INCOMING) /* PASS_ON */
        fi
    :: state == OWNED && event == GIVEN ->
        assert(owner == agent);
        op_store(1);
        state = HOME
    :: state == OWNED && event == CROSSED ->
        assert(owner == agent);
        op_store(1);
        for_agent = AT_HOME;
        for_slot = 0;
        state = WAIT_GONE;
        op_send(owner, RECALL)
    :: (state == WAIT_DATA || state == WAIT_KEPT) && (event == GIVEN || event == CROSSED) ->
        assert(owner == agent && nfull(line));
        op_store(1);
        line!for_agent, for_slot, (state == WAIT_DATA -> WRITE : READ);
        for (for_slot : 1 .. len(line) - 1) { /* the first in line */
            line?for_agent, slot, event;
            line!for_agent, slot, event
        }
        for_agent = AT_HOME;
        for_slot = 0;
        state = WAIT_GONE
    :: state == WAIT_GONE && event == ACK ->
        assert(owner == agent);
        state = HOME
    :: state == WAIT_KEPT && event == DATA ->
        assert(owner == agent);
        op_store(0);
        state = SHARED;
        sharers = BIT(agent) | BIT(for_agent);
        op_grant(for_agent, for_slot, 0, (for_agent == AT_HOME -> NO_CONTENT : INCOMING))
    :: else -> assert(false) /* -EPROTO: a worker that keeps to the protocol never sees it */
    fi
}

/* get() of agent.c: with the page that a thread has asked for, this one may go, too, if the worker would have to ask for it and nobody else
 * does: at once in the same message (`slot` takes it, then), or by itself. */
inline ahead()
{
    out_agent = agent;
    out_slot = slot;
    event = NOTHING;
    if
    :: skip
    :: !held && !BUSY && empty(line) && !(HOLDS(agent) && state != SHARED) ->
        if
        :: !HOLDS(agent) -> event = READ
        :: event = WRITE
        fi;
        if
        :: state == HOME || (state == SHARED && (event == READ || !(sharers & ~BIT(agent)))) -> out_agent = AT_HOME; out_slot = 0
        :: slot = NOBODY
        fi
    fi
}

proctype Home()
{
    byte agent, slot, out_agent, out_slot;
    mtype event = NOTHING;
    bit content, out_write, out_data, out;
end:
    atomic {
        if
        :: from[0]?event, slot, content -> agent = 0
        :: from[1]?event, slot, content -> agent = 1
        :: from[2]?event, slot, content -> agent = 2
        :: !held && nempty(parked) -> parked?agent, slot, event
        :: !held && !BUSY && empty(line) && n_called < CALLS -> /* discard() of memory.c: nothing of it is on its way */
            n_called++;
            held = 1;
            goto end
        :: held && !n_drops -> /* the call fails */
            held = 0;
            goto end
        :: held && !n_drops -> /* or home's copy goes with it */
            right[0] = NONE;
            value[0] = 0;
            n_drops = 2;
            op_send(1, DROP);
            op_send(2, DROP);
            goto end
        fi;
        if
        :: event == DROPPED ->
            n_drops--;
            if
            :: n_drops == 0 -> /* FORGET: empty, and home's */
                assert(!BUSY && right[1] == NONE && right[2] == NONE);
                state = HOME; sharers = 0; owner = 0;
                right[0] = MAY_WRITE;
                last = 0;
                held = 0
            :: else
            fi;
            event = NOTHING; agent = 0; slot = 0;
            goto end
        :: held && (event == READ || event == WRITE) ->
            parked!agent, slot, event;
            event = NOTHING; agent = 0; slot = 0;
            goto end
        :: held && event == GIVEN ->
            assert(state == OWNED && owner == agent);
            if
            :: n_drops -> skip
            :: else ->
                assert(nfull(to[agent]));
                to[agent]!GRANT, 1, 1, content
            fi;
            settled[agent] = 0;
            event = NOTHING; agent = 0; slot = 0; content = 0;
            goto end
        :: !held && event == GIVEN ->
            if
            :: !settled[agent] -> event = CROSSED
            :: else
            fi;
            settled[agent] = 0
        :: event == OTHER ->
            ahead();
            if
            :: out_agent == AT_HOME -> goto turn
            :: else -> goto sending
            fi
        :: else
        fi;
turn:
        step();
        content = 0;
        event = NOTHING;
        if
        :: out_agent == AT_HOME -> goto next
        :: else
        fi
    }
sending:
    atomic {
        grant_send();
        if
        :: event != NOTHING -> goto turn
        :: else
        fi;
next:
        if
        :: !BUSY && nempty(line) -> line?agent, slot, event; goto turn /* those in line, until one of them begins another transaction */
        :: BUSY || empty(line)
        fi;
        agent = 0; slot = 0;
        goto end
    }
}

/* --- workers: compute/worker.c, twin.c ------------------------------------------------------------------------------------------ */

/* wk_install, by whoever has read the grant. A right that comes before the copy does, on another thread's stream, is lost. */
inline install(w, d)
{
    if
    :: d ->
        assert(right[a] == NONE);
        right[a] = (w -> MAY_WRITE : MAY_READ);
        value[a] = content
    :: !d && w && right[a] != NONE -> right[a] = MAY_WRITE
    :: else
    fi;
    coherent()
}

/* wk_taken */
inline taken()
{
    byte t;
    if
    :: barrier[a] >= number[slot] -> barrier[a]--
    :: else
    fi;
    for (t : 0 .. SLOTS - 1) {
        if
        :: a == 1 && t > 1 && number[t] > number[slot] -> number[t]--
        :: else
        fi
    }
    t = 0;
    number[slot] = 0;
    n_granted[a]--
}

/* The coherence stream of worker `a`. An invalidation or recall waits for the grants before it, and then may be put off. */
proctype Worker(byte a)
{
    mtype later = NOTHING;
    bit w, d, content;
end:
    do
    :: atomic {
        to[a]?GRANT, w, d, content ->
        install(w, d);
        w = 0; d = 0; content = 0
    }
    :: atomic {
        nempty(to[a]) && !to[a]?[GRANT, _, _, _] && barrier[a] == 0 ->
        assert(later == NOTHING);
        to[a]?later, _, _, _
    }
    :: atomic {
        later != NOTHING ->
        assert(nfull(from[a]));
        if
        :: later == INVALIDATE ->
            assert(right[a] == MAY_READ);
            from[a]!ACK(0, 0);
            right[a] = NONE
        :: later == DROP ->
            from[a]!DROPPED(0, 0);
            right[a] = NONE
        :: later != INVALIDATE && later != DROP && right[a] == NONE -> from[a]!ACK(0, 0) /* it was given */
        :: else -> /* to write, unless that right was lost */
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

/* A thread asks when it has not the right, waits for its grant, and tries again: the copy may have gone by then. One of worker 1 that leaves
 * gives the page if it may be written there, with the lock that recalls and rights take, too; another one comes in its place. (Worker 2's do not: there would be too
 * many states.) */
proctype Thread(byte a; byte slot)
{
    mtype want = NOTHING;
    bit w, d, content;
idle:
    atomic {
        if
        :: want = READ
        :: want = WRITE
        :: a == 1 -> want = OTHER
        :: a == 1 && right[a] == MAY_WRITE ->
            assert(nfull(from[a]));
            settled[a] = n_granted[a] == 0 && !to[a]??[GRANT, _, _, _];
            from[a]!GIVEN(0, value[a]);
            right[a] = NONE;
            value[a] = 0;
            goto idle
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
        to_thread[slot]?w, d, content ->
        if
        :: a == AT_HOME -> goto try
        :: else
        fi;
        install(w, d);
        w = 0; d = 0; content = 0
    }
    atomic {
        taken();
        if
        :: want == OTHER -> want = NOTHING; goto idle
        :: else -> goto try
        fi
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

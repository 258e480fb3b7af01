// Asynchronous host calls. Each is settled once; one that was cancelled, never.

const waiting = new MapClass();
// Calls that wait for others to end, since a host allows only so many at a time.
const backlog = [];
const MOST_UNDER_WAY = 250;
let underWay = 0;
let lastCall = 0;

// `call` is `[undefined, operation, ...arguments]`; its number takes the first place. `done(error, reply)` runs once.
function begin(call, done) {
  const id = ++lastCall;
  call[0] = id;
  mapSet(waiting, id, done);
  if (underWay >= MOST_UNDER_WAY) push(backlog, call);
  else startCall(call);
  return id;
}

function startCall(call) {
  underWay++;
  apply(hostStart, undefined, call);
}

function cancel(id) {
  if (!mapDelete(waiting, id)) return;
  for (let i = 0; i < backlog.length; i++) if (backlog[i][0] === id) return void splice(backlog, i, 1);
  sync([CANCEL, StringOf(id)]);
  ended();
}

function ended() {
  underWay--;
  if (backlog.length > 0) startCall(splice(backlog, 0, 1)[0]);
}

// Called by the host. What a callback throws is thrown to the host, which ends the step with it.
function settle(id, ok, reply) {
  const done = mapGet(waiting, id);
  if (done === undefined) return;
  mapDelete(waiting, id);
  ended();
  if (ok) done(null, reply);
  else done(hostError(utf8Text(new U8(reply))), undefined);
}

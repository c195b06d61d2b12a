"""The coordinator's part for one target: journals of its streams, their draft nodes, their plan.

A draft node follows a stream and sends guesses ahead of it without a request for each. The
scheduler forwards guesses to the target and commits to the draft node. Everything here is pure: it
takes events and `now` and returns instructions. The coordinator and the simulator run this code.

`state` has all that is known, `scheduler` the events. What happens is in functions over the state:
`endings` opens and ends streams and ends waits that last too long, `commits` adds tokens to
journals and sends them on, `following` assigns draft nodes, `passes` learns from passes, and
`in_force` makes plans and puts them in force. The other modules know nothing of the state.
"""

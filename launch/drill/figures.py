"""What a drill says of a job: were its promises kept, how fast was a fault seen and got over. Pure.

- *Detection*: from a fault's beginning to the first time that a rank lost a link or a worker ended,
  while the fault was in force or within `AFTERMATH` seconds of its end. A fault that was ridden out
  without any rank giving up a connection has none.
- *Recovery*: from the moment when getting over it was possible (the fault's end; its beginning, if
  it has no duration; never before its detection) to the end of the first step that any rank ends
  after every link that was lost is restored and every worker that ended is started again.
- *Goodput*: the quiet run's seconds from its first step's end to its last, over the faulty run's.
"""

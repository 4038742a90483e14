-- Nothing is given up any more for an outage or a limit of the forge: what was, is due again.
UPDATE reports SET stalled = false, attempts = 0, retry_at = NULL
 WHERE stalled AND surface <> 'notification'
   AND error !~ '^(Status|Check|Deployment|Comment|Reaction)Refused: ';

-- A sweep goes back to what was delivered shortly before the last whole one began: ids are not promised to be in order.
ALTER TABLE delivery_sweeps ADD COLUMN began_at timestamptz;

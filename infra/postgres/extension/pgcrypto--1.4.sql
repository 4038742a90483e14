\echo Use "CREATE EXTENSION pgcrypto" to load this file. \quit
-- SHA-1 of FIPS 180-4, 6.1.2, which PostgreSQL itself has not.
CREATE FUNCTION @extschema@.pgcrypto_sha1(data bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $$
DECLARE
    bits32 CONSTANT bigint := 4294967295;
    padded bytea := data || '\x80'::bytea || decode(repeat('00', (119 - octet_length(data) % 64) % 64), 'hex')
        || int8send(octet_length(data)::bigint * 8);
    h bigint[] := ARRAY[1732584193, 4023233417, 2562383102, 271733878, 3285377520];
    w bigint[];
    a bigint; b bigint; c bigint; d bigint; e bigint; f bigint; k bigint; t bigint;
BEGIN
    FOR block IN 0 .. octet_length(padded) / 64 - 1 LOOP
        FOR i IN 0 .. 15 LOOP
            w[i] := (get_byte(padded, block * 64 + i * 4)::bigint << 24)
                | (get_byte(padded, block * 64 + i * 4 + 1) << 16)
                | (get_byte(padded, block * 64 + i * 4 + 2) << 8)
                | get_byte(padded, block * 64 + i * 4 + 3);
        END LOOP;
        FOR i IN 16 .. 79 LOOP
            t := w[i - 3] # w[i - 8] # w[i - 14] # w[i - 16];
            w[i] := ((t << 1) | (t >> 31)) & bits32;
        END LOOP;
        a := h[1]; b := h[2]; c := h[3]; d := h[4]; e := h[5];
        FOR i IN 0 .. 79 LOOP
            IF i < 20 THEN
                f := (b & c) | ((bits32 # b) & d); k := 1518500249;
            ELSIF i < 40 THEN
                f := b # c # d; k := 1859775393;
            ELSIF i < 60 THEN
                f := (b & c) | (b & d) | (c & d); k := 2400959708;
            ELSE
                f := b # c # d; k := 3395469782;
            END IF;
            t := ((((a << 5) | (a >> 27)) & bits32) + f + e + k + w[i]) & bits32;
            e := d; d := c; c := ((b << 30) | (b >> 2)) & bits32; b := a; a := t;
        END LOOP;
        h := ARRAY[(h[1] + a) & bits32, (h[2] + b) & bits32, (h[3] + c) & bits32, (h[4] + d) & bits32,
            (h[5] + e) & bits32];
    END LOOP;
    RETURN decode(lpad(to_hex(h[1]), 8, '0') || lpad(to_hex(h[2]), 8, '0') || lpad(to_hex(h[3]), 8, '0')
        || lpad(to_hex(h[4]), 8, '0') || lpad(to_hex(h[5]), 8, '0'), 'hex');
END $$;

CREATE FUNCTION @extschema@.digest(data bytea, type text) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $$
BEGIN
    CASE lower(type)
        WHEN 'md5' THEN RETURN decode(md5(data), 'hex');
        WHEN 'sha1' THEN RETURN @extschema@.pgcrypto_sha1(data);
        WHEN 'sha224' THEN RETURN sha224(data);
        WHEN 'sha256' THEN RETURN sha256(data);
        WHEN 'sha384' THEN RETURN sha384(data);
        WHEN 'sha512' THEN RETURN sha512(data);
        ELSE RAISE invalid_parameter_value USING MESSAGE = format('Cannot use "%s": No such hash algorithm', type);
    END CASE;
END $$;
CREATE FUNCTION @extschema@.digest(data text, type text) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN @extschema@.digest(convert_to(data, 'UTF8'), type);

-- RFC 2104. The block of SHA-384 and SHA-512 has 128 bytes, the others' 64.
CREATE FUNCTION @extschema@.hmac(data bytea, key bytea, type text) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $$
DECLARE
    block CONSTANT integer := CASE WHEN lower(type) IN ('sha384', 'sha512') THEN 128 ELSE 64 END;
    padded bytea := CASE WHEN octet_length(key) > block THEN @extschema@.digest(key, type) ELSE key END;
    inner_pad bytea := ''; outer_pad bytea := '';
BEGIN
    padded := padded || decode(repeat('00', block - octet_length(padded)), 'hex');
    inner_pad := padded;
    outer_pad := padded;
    FOR i IN 0 .. block - 1 LOOP
        inner_pad := set_byte(inner_pad, i, get_byte(padded, i) # 54);
        outer_pad := set_byte(outer_pad, i, get_byte(padded, i) # 92);
    END LOOP;
    RETURN @extschema@.digest(outer_pad || @extschema@.digest(inner_pad || data, type), type);
END $$;
CREATE FUNCTION @extschema@.hmac(data text, key text, type text) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN @extschema@.hmac(convert_to(data, 'UTF8'), convert_to(key, 'UTF8'), type);

CREATE FUNCTION @extschema@.gen_random_uuid() RETURNS uuid LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
RETURN pg_catalog.gen_random_uuid();
-- 32 bytes at a time, from 244 random bits of the server's own source (pg_strong_random).
CREATE FUNCTION @extschema@.gen_random_bytes(count integer) RETURNS bytea
LANGUAGE plpgsql VOLATILE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $$
DECLARE
    drawn bytea := '';
BEGIN
    IF count < 1 OR count > 1024 THEN
        RAISE external_routine_invocation_exception USING MESSAGE = 'Length not in range';
    END IF;
    WHILE octet_length(drawn) < count LOOP
        drawn := drawn || sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
    END LOOP;
    RETURN substring(drawn FROM 1 FOR count);
END $$;

-- What takes a cipher is there by name, so that a schema loads, and says what it lacks when it is called.
CREATE FUNCTION @extschema@.pgcrypto_lacks(what text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RAISE feature_not_supported USING
        MESSAGE = format('%s is not in the PostgreSQL of `oroboros up`, which is built without OpenSSL', what),
        HINT = 'Digests, HMACs and random bytes are. A host''s PostgreSQL has all of pgcrypto.';
END $$;
CREATE FUNCTION @extschema@.crypt(password text, salt text) RETURNS text LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('crypt()')::text;
CREATE FUNCTION @extschema@.gen_salt(type text) RETURNS text LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('gen_salt()')::text;
CREATE FUNCTION @extschema@.gen_salt(type text, rounds integer) RETURNS text LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('gen_salt()')::text;
CREATE FUNCTION @extschema@.encrypt(data bytea, key bytea, type text) RETURNS bytea LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('encrypt()')::bytea;
CREATE FUNCTION @extschema@.decrypt(data bytea, key bytea, type text) RETURNS bytea LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('decrypt()')::bytea;
CREATE FUNCTION @extschema@.encrypt_iv(data bytea, key bytea, iv bytea, type text) RETURNS bytea LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('encrypt_iv()')::bytea;
CREATE FUNCTION @extschema@.decrypt_iv(data bytea, key bytea, iv bytea, type text) RETURNS bytea LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('decrypt_iv()')::bytea;
CREATE FUNCTION @extschema@.pgp_sym_encrypt(data text, key text) RETURNS bytea LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('pgp_sym_encrypt()')::bytea;
CREATE FUNCTION @extschema@.pgp_sym_encrypt(data text, key text, options text) RETURNS bytea LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('pgp_sym_encrypt()')::bytea;
CREATE FUNCTION @extschema@.pgp_sym_decrypt(data bytea, key text) RETURNS text LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('pgp_sym_decrypt()')::text;
CREATE FUNCTION @extschema@.pgp_sym_decrypt(data bytea, key text, options text) RETURNS text LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('pgp_sym_decrypt()')::text;
CREATE FUNCTION @extschema@.pgp_pub_encrypt(data text, key bytea) RETURNS bytea LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('pgp_pub_encrypt()')::bytea;
CREATE FUNCTION @extschema@.pgp_pub_decrypt(data bytea, key bytea) RETURNS text LANGUAGE sql STRICT
RETURN @extschema@.pgcrypto_lacks('pgp_pub_decrypt()')::text;

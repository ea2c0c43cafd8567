import test from 'ava';
import { openSqliteBed } from '../../test/harness/sqlite_bed.ts';
import { propertyContract } from './contract_properties.ts';

propertyContract(test, openSqliteBed);
